# SPDX-License-Identifier: LGPL-2.1-or-later
"""A dataset as tables, data and an HTML page. :mod:`drgn_tools.fleet` maps the files."""
