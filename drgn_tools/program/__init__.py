# SPDX-License-Identifier: LGPL-2.1-or-later
"""Open a core, the running kernel or a QEMU guest as a drgn Program with types and symbols.

Headers are read and checked here, so that a wrong file is one line; drgn and libkdumpfile then open
the file. Page tables that drgn cannot follow are connected to the program here and walked in arch/.
"""
