# SPDX-License-Identifier: Apache-2.0
"""The simulated Ascend: the real torch_npu over a stand-in for CANN, without the hardware."""
