# SPDX-License-Identifier: LGPL-2.1-or-later
"""What goes wrong in the lab, as one line for a person."""

from __future__ import annotations

__all__ = ("LabError",)


class LabError(Exception):
    """Something outside is missing or failed; ``str()`` says what, and what to do."""
