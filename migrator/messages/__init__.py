# SPDX-License-Identifier: Apache-2.0
"""What is said to users and how: errors with a way out, wording, text escaped for each medium."""
