# SPDX-License-Identifier: LGPL-2.1-or-later
"""Compares the ORC walker with the kernel's own source, compiled in user space, on random stacks.

:mod:`.source` gets arch/x86/kernel/unwind_orc.c out of Debian's source package, :mod:`.library`
compiles it (``shim.h`` and ``shim.c`` stand for the rest of the kernel) and gives it the tables of
a dump, :mod:`.words` makes stacks, :mod:`.compare` compares.
"""
