# SPDX-License-Identifier: LGPL-2.1-or-later
"""What every Linux kernel has, whatever the machine: tasks and their lists, per-CPU variables, text, names.

The list of modules is in debuginfo/, because symbols are found through it.
"""
