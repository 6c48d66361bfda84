# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where the records of a fleet are kept. :mod:`drgn_tools.fleet` maps the files."""
