# SPDX-License-Identifier: Apache-2.0
"""Triton on the simulated Ascend: a stand-in for triton-ascend.

Triton's own interpreter runs the kernels. It is there where ASCEND_SIM_TRITON is set, and in the
simulator alone: `_hook` tells Triton of this backend and hands the interpreter to `launching`.
Nothing of Triton is imported here, because Triton imports `driver` and `compiler` while it is
imported itself.
"""
