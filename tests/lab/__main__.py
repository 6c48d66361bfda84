# SPDX-License-Identifier: LGPL-2.1-or-later
"""``python -m tests.lab``"""

from __future__ import annotations

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
