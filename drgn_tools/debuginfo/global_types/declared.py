# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a table says of one variable."""

from __future__ import annotations

from typing import Union

from ..declarations import Condition

__all__ = ("Declared",)

Declared = Union[str, tuple[Union[str, Condition], ...]]
"""A declaration without the name; or several, of which the first holds that a kernel has and that
is not too large."""
