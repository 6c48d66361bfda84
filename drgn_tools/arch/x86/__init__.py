# SPDX-License-Identifier: LGPL-2.1-or-later
"""x86-64 and x86-32. The function and file of the kernel that a part re-states is in its docstring."""
