# SPDX-License-Identifier: LGPL-2.1-or-later
"""Types and symbols from the dump itself: BTF, kallsyms, VMCOREINFO, and the list of modules.

``find_*`` search memory for a table; drgn calls ``*_finder`` to look a name up.
"""
