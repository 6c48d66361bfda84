# SPDX-License-Identifier: LGPL-2.1-or-later
"""python -m tests.bench"""

from __future__ import annotations

import sys

from .cli import main

sys.exit(main())
