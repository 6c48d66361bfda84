# SPDX-License-Identifier: LGPL-2.1-or-later
"""Measures: large dumps, and figures that are ratios of what was timed in one run."""
