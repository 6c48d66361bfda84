# SPDX-License-Identifier: LGPL-2.1-or-later
"""The parsers of dumps accept any bytes."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from drgn_tools.debuginfo.btf import Btf, Kind
from drgn_tools.debuginfo.find_kallsyms import find_kallsyms
from drgn_tools.program.elf import read_elf
from drgn_tools.program.kdump import read_kdump

from .parsers import _TEXT, PARSERS, small_inputs

RUNS = 300
ODD = (0, 1, 2, 7, 0x7F, 0x80, 0xFE, 0xFF)


@pytest.mark.parametrize("name", PARSERS)
def test_any_bytes(name: str, tmp_path: Path) -> None:
    # python -m tests.fuzz.guided looks for inputs that reach other code.
    parse = PARSERS[name]
    dice = random.Random(name)
    for data in (b"", *small_inputs(tmp_path)[name]):
        parse(data)
        for _ in range(RUNS):
            damaged = bytearray(data[: dice.choice((len(data), dice.randrange(len(data) + 1)))])
            for _ in range(dice.choice((1, 2, 8)) if damaged else 0):
                at = dice.randrange(min(len(damaged), dice.choice((64, 1024, len(damaged)))))
                damaged[at : at + 1] = bytes([dice.choice((*ODD, dice.randrange(256)))])
            parse(bytes(damaged))


def test_the_small_inputs_are_what_they_should_be(tmp_path: Path) -> None:
    # Otherwise the test above would prove little.
    inputs = small_inputs(tmp_path)
    for parser, files in inputs.items():
        for number, data in enumerate(files):
            (tmp_path / f"{parser}-{number}").write_bytes(data)
    for number in (0, 1):
        with open(tmp_path / f"elf-{number}", "rb") as file:
            assert read_elf(file)
        with open(tmp_path / f"kdump-{number}", "rb") as file:
            assert read_kdump(file)
    types = Btf(inputs["btf"][0])
    found = types.find(Kind.STRUCT, "task_struct")
    assert found is not None
    assert [member.name for member in types.members(found)] == ["pid", "list"]
    memory = inputs["searched kallsyms"][0]

    def read(address: int, size: int) -> bytes:
        return memory[address - _TEXT : address - _TEXT + size] if address >= _TEXT else b""

    assert list(find_kallsyms(read, _TEXT, 8))
