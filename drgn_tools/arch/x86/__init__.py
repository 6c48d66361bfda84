# SPDX-License-Identifier: LGPL-2.1-or-later
"""x86-64 and x86-32. A docstring names the function and file of the kernel that its code re-states."""
