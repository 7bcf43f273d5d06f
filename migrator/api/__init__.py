# SPDX-License-Identifier: Apache-2.0
"""The Python API: open a source, plan, apply, update; the command is made of it.

`import migrator` has its names: `migrator.open`, `plan`, `apply`, `update`, and what they take and
give. Each is in a module of its own that is imported when the name is first used.
"""
