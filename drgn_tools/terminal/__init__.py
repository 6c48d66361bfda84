# SPDX-License-Identifier: LGPL-2.1-or-later
"""What every command line is made of: the argument parser, the console, escaping, logging.

It does not depend on any command or record.
"""
