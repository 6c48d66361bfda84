# SPDX-License-Identifier: LGPL-2.1-or-later
"""Damage whole dumps by seed, and compare the answers for them with those for the whole dump."""
