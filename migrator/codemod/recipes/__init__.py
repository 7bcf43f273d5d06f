# SPDX-License-Identifier: Apache-2.0
"""Recipes: the shapes of changes that recur, which a rule states in a few lines.

A branch for NPU tensors or for the NPU platform (`branches`), a `forward_oot` beside a
`forward_cuda` (`forward_oot`), a condition that counts an NPU as CUDA (`conditions`), and
expressions that become others, such as a call that becomes the device's (`rewrites`).
"""
