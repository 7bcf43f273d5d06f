# SPDX-License-Identifier: Apache-2.0
"""Programs that run in the environment of a device: by their paths, never imported from here."""
