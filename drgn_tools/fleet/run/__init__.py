# SPDX-License-Identifier: LGPL-2.1-or-later
"""Audit sources into a dataset, on a Dask cluster. :mod:`drgn_tools.fleet` maps the files."""
