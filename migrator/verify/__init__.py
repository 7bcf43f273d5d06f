# SPDX-License-Identifier: Apache-2.0
"""What can be known of an emitted tree without an NPU.

`run.verify` is the entry. The names and calls of the tree are read as source, the torch_npu wheel
is read as a zip file: nothing of either is imported, except by the import check in an environment
that the user names.
"""
