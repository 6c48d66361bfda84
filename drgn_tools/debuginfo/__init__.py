# SPDX-License-Identifier: LGPL-2.1-or-later
"""Types and symbols out of the dump itself: BTF, kallsyms, VMCOREINFO, and the list of modules.

``find_*`` search memory for a table; ``*_finder`` are what drgn calls to look a name up.
"""
