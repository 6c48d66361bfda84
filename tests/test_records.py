# SPDX-License-Identifier: LGPL-2.1-or-later
"""Records are the frozen dataclasses they are declared as, however they are made."""

from __future__ import annotations

import dataclasses
import inspect
import pickle

import pytest

from drgn_tools.arch.x86.pt_regs import X86_64
from drgn_tools.records import Frame, SavedRegs, TaskStack

from .support.fabricated import FAULTING, TASKS


@pytest.mark.parametrize("record", [Frame, SavedRegs, TaskStack])
def test_a_record_is_made_of_its_fields_in_their_order(record: type[Frame]) -> None:
    fields = dataclasses.fields(record)
    parameters = list(inspect.signature(record).parameters.values())
    assert [p.name for p in parameters] == [f.name for f in fields]
    for parameter, field in zip(parameters, fields):
        no_default = field.default is dataclasses.MISSING
        assert parameter.default is (parameter.empty if no_default else field.default)
        assert parameter.annotation == field.type
    with pytest.raises(TypeError):
        record()  # type: ignore[call-arg]


def test_records_cannot_be_changed_but_replaced_compared_and_pickled() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        FAULTING.pid = 7  # type: ignore[misc]
    other = dataclasses.replace(FAULTING, pid=7)
    assert (other.pid, other.frames) == (7, FAULTING.frames)
    assert other != FAULTING
    assert dataclasses.replace(other, pid=FAULTING.pid) == FAULTING
    assert len({*TASKS, *pickle.loads(pickle.dumps(TASKS))}) == len(set(TASKS))


def test_registers_as_they_lie_in_memory_are_equal_to_a_dict_of_them() -> None:
    lazy = X86_64.read(bytes(range(168)))
    one, other = (SavedRegs(0x1000, "syscall", True, r) for r in (lazy, dict(lazy)))
    assert one == other
    assert hash(one) == hash(other)
    assert pickle.loads(pickle.dumps(one)) == one
    assert dataclasses.asdict(one) == dataclasses.asdict(other)
    assert type(dataclasses.asdict(one)["registers"]) is dict
