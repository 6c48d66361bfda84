# SPDX-License-Identifier: LGPL-2.1-or-later
"""The site: make docs. Every page is also a file to read on its own.

The pages lie all over the tree, and link each other by path. So the root of the tree is the
source folder. A warning is an error: a link to a page, an anchor or a name in Python that does
not exist ends the build.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

from manual import command_pages, markdown_pages  # noqa: E402

from drgn_tools import __version__  # noqa: E402

project = "drgn-tools"
version = release = __version__
smartquotes = False  # options have two dashes
html_title = f"drgn-tools {__version__}"
html_theme = "furo"
html_show_copyright = False
html_extra_path = ["site"]  # the root leads to docs/

extensions = ["myst_parser", "sphinx.ext.autodoc"]
root_doc = "docs/index"
include_patterns = [
    "docs/**",
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "contrib/README.md",
    "tests/lab/README.md",
]
exclude_patterns = ["docs/conf.py", "docs/site"]

# An anchor of a heading is what forges make of it, so that links work there, too.
myst_heading_anchors = 3
suppress_warnings = [
    "myst.header",  # a page may begin with any level
    "misc.highlighting_failure",
]
highlight_language = "none"

nitpicky = True
# What is not ours has its own documentation, which a build without network does not know.
nitpick_ignore_regex = [
    ("py:.*", r"(_?drgn|msgspec|collections|typing|argparse|enum|os|pathlib|pandas)\..*"),
    (
        "py:.*",
        r"(str|int|bool|float|bytes|dict|list|tuple|object|None|Any|Optional|Union|Callable)",
    ),
    (
        "py:.*",
        r"(Iterable|Iterator|Mapping|Sequence|Literal|Program|Object|Thread|Struct|Enum|Path|Progress)",
    ),
    ("py:exc", r"(ValueError|LookupError|KeyError|OSError|Exception)"),
]
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
python_use_unqualified_type_names = True


def setup(app: Sphinx) -> None:
    """Write the pages that are made from the code."""
    folder = ROOT / "docs" / "generated"
    folder.mkdir(exist_ok=True)
    for name, text in (
        ("manual.md", f"# Manual\n\nWhat `--help` and the man pages say.\n\n{_manual()}"),
        ("schemas.md", "\n".join(_schemas())),
    ):
        path = folder / name
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
    app.connect("autodoc-process-docstring", _without_fields)


def _manual() -> str:
    return markdown_pages(command_pages())


def _without_fields(
    app: Sphinx, what: str, name: str, it: Any, options: Any, lines: list[str]
) -> None:
    # help() shows the fields in the docstring of a record; here each has its own entry.
    text = vars(it).get("__doc__") if what == "class" else None
    if hasattr(text, "_text"):
        lines[:] = [*text._text.splitlines(), ""]


# ---- JSON schemas


def _schemas() -> Iterator[str]:
    yield from ("# JSON schemas", "")
    yield from (
        "A document names its schema: `drgn-tools.tasks/1` is `tasks-1.json` in the folder",
        "`drgn_tools/schemas` of the package. Within a number, fields are only added. A line of",
        "`--format jsonl` is an item of the list of its document.",
        "",
    )
    for path in sorted((ROOT / "drgn_tools" / "schemas").glob("*.json")):
        schema = json.loads(path.read_text())
        yield from (f"## {schema['title']}", "", f"`{schema['description'].rstrip('.')}`", "")
        yield from _fields(schema)
        for name, part in schema.get("$defs", {}).items():
            if "properties" in part:
                yield from (f"**{name}**: {part['description']}", "")
                yield from _fields(part)


def _fields(schema: dict[str, Any]) -> Iterator[str]:
    yield from ("| field | type | |", "|---|---|---|")
    for name, field in schema["properties"].items():
        may_lack = "" if name in schema["required"] else " (with `--frames`)"
        yield f"| `{name}` | {_type(field)}{may_lack} | {field.get('description', '')} |"
    yield ""


def _type(field: dict[str, Any]) -> str:
    if "$ref" in field:
        name = str(field["$ref"]).rpartition("/")[2]
        return "string" if name == "Verdict" else name
    if "anyOf" in field:
        return " or ".join(_type(choice) for choice in field["anyOf"])
    if "enum" in field:
        return " or ".join(f"`{value}`" for value in field["enum"])
    if field["type"] == "array":
        return f"list of {_type(field['items'])}"
    if field["type"] == "object":
        values = field.get("additionalProperties")
        return f"object of {_type(values)}" if isinstance(values, dict) and values else "object"
    return "hex string" if "pattern" in field else str(field["type"])
