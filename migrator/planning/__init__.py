# SPDX-License-Identifier: Apache-2.0
"""A tree in, a plan out: all rules over all files, in processes, and results kept between runs."""
