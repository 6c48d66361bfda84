# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command line, the ``%`` commands of drgn's REPL, the plugin and one-shot scripts.

A command is one module with its options, its checks and one body for the command line and the
REPL. analysis/ computes what it shows, and render/ turns that into text.
"""
