# SPDX-License-Identifier: LGPL-2.1-or-later
"""The lab: real kernels, frozen, each dump with the kernel's own answers in it."""
