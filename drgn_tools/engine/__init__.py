# SPDX-License-Identifier: LGPL-2.1-or-later
"""One kernel: everything its stacks need, made once, and the way from a task to its record.

It reads a stack, calls the walker, gets the verdict, and looks up the symbols of the frames.
"""
