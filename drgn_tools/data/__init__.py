# SPDX-License-Identifier: LGPL-2.1-or-later
"""The files in the package: the demo vmcore, and a text that says how it was made."""

from __future__ import annotations

from pathlib import Path

__all__ = ("demo_vmcore",)


def demo_vmcore() -> Path:
    """Return the path of the demo vmcore, an ELF core compressed with xz."""
    return Path(__file__).parent / "demo.vmcore.xz"
