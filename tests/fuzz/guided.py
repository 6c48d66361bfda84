# SPDX-License-Identifier: LGPL-2.1-or-later
"""Fuzz the parsers, guided by code coverage. This needs atheris, which is not a dependency.

    python -m tests.fuzz.guided [-max_total_time=600] [option of libFuzzer...] [FOLDER]

The folder keeps the inputs that reached new code. An input that fails is written to a file crash-*.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["drgn_tools"]):
    from .parsers import PARSERS, small_inputs

__all__ = ("one_input",)

_NAMES = list(PARSERS)


def one_input(data: bytes) -> None:
    """Run one parser; the first byte selects it."""
    if data:
        PARSERS[_NAMES[data[0] % len(_NAMES)]](data[1:])


def seeds(folder: Path) -> None:
    """Write files with small inputs that each parser accepts."""
    for parser, inputs in small_inputs(folder).items():
        for number, data in enumerate(inputs):
            path = folder / f"{parser.replace(' ', '-')}-{number}"
            path.write_bytes(bytes([_NAMES.index(parser)]) + data)


def main() -> None:
    """The command line above."""
    with tempfile.TemporaryDirectory(prefix="drgn-tools-guided-") as folder:
        seeds(Path(folder))
        atheris.Setup([*sys.argv, folder] if sys.argv[1:] else [sys.argv[0], folder], one_input)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
