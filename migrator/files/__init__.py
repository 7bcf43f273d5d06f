# SPDX-License-Identifier: Apache-2.0
"""Files, read and written: trees and where they come from, the writer, git and package indexes."""
