# SPDX-License-Identifier: LGPL-2.1-or-later
"""Records to text. Nothing here computes, and nothing else makes text.

Renderers take finished records and yield lines, so the formats that can be
streamed (json, jsonl, csv) need no memory however many tasks there are.
"""

from __future__ import annotations
