# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whole dumps, damaged by seed: how they are answered is held against how the whole dump is."""
