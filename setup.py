# SPDX-License-Identifier: LGPL-2.1-or-later
"""What pyproject.toml cannot say: the README without links that lead out of the package index.

A link to a file of the source tree is dead there. The index shows its text, and the path of the
file in the source archive.
"""

import re
from pathlib import Path

from setuptools import setup

README = Path(__file__).parent / "README.md"


def without_relative_links(text: str) -> str:
    """Replace links to files: images by nothing, other links by their text and the path."""
    text = re.sub(r"^!\[[^\]]*\]\((?!https?:)[^)]*\)\n\n?", "", text, flags=re.MULTILINE)
    return re.sub(r"(?<![!\w])\[([^\]]+)\]\((?!https?:|#)([^)]+)\)", _named, text)


def _named(link: re.Match) -> str:
    text, path = link[1], link[2].partition("#")[0]
    return f"`{path}`" if text == path else f"{text} (`{path}`)"


if __name__ == "__main__":
    setup(
        long_description=without_relative_links(README.read_text(encoding="utf-8")),
        long_description_content_type="text/markdown",
    )
