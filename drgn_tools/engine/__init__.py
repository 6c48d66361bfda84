# SPDX-License-Identifier: LGPL-2.1-or-later
"""One kernel: everything its stacks need, made once, and the way from a task to its record.

It reads a stack, has a walker walk it, has the verdict judged, and names what the walk met.
"""
