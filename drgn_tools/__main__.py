# SPDX-License-Identifier: LGPL-2.1-or-later
"""``python -m drgn_tools``, and where the command ``drgn-tools`` starts."""

from __future__ import annotations

import sys

__all__ = ("main",)


def main() -> int:
    """Run the command line of the process; its exit code."""
    # Importing takes long enough for a Ctrl-C to hit it.
    try:
        from .cli import main as run

        return run()
    except KeyboardInterrupt:
        return 128 + 2


if __name__ == "__main__":
    sys.exit(main())
