# SPDX-License-Identifier: LGPL-2.1-or-later
"""Records to text. Nothing here computes or prints.

Renderers take finished records and yield lines without newlines. json, jsonl and csv are
streamed: their use of memory does not grow with the number of tasks.
"""

from __future__ import annotations
