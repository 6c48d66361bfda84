# SPDX-License-Identifier: LGPL-2.1-or-later
"""A finished walk -> reliable, unreliable or unknown, and the reason in words.

The rules of arch_stack_walk_reliable(), and why a kernel may give no verdict at all. Nothing here
walks a stack.
"""
