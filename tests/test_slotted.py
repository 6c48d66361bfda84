# SPDX-License-Identifier: LGPL-2.1-or-later
"""Frozen dataclasses with slots: everything that a dataclass is, but for how it is made."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
import weakref
from typing import Optional

import pytest

from drgn_tools.slotted import maker_of, slotted


@slotted
@dataclasses.dataclass(frozen=True, repr=False)
class Place:
    """Where something is."""

    name: str
    at: int = 7
    beyond: Optional[int] = None

    @property
    def after(self) -> int:
        return self.at + 1

    def __repr__(self) -> str:
        return f"<Place {self.name}>"


def test_fields_are_set_by_place_by_name_and_by_default() -> None:
    place = Place("a", beyond=3)
    assert (place.name, place.at, place.beyond, place.after) == ("a", 7, 3, 8)
    assert repr(place) == "<Place a>"
    assert type(place) is Place


@pytest.mark.parametrize("arguments", [(), ("a", 1, 2, 3)], ids=len)
def test_a_wrong_number_of_fields_is_refused(arguments: tuple[object, ...]) -> None:
    with pytest.raises(TypeError, match="argument"):
        Place(*arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["at", "nothing", "__class__", "__weakref__"])
@pytest.mark.parametrize("place", [Place("a"), maker_of(Place)("a")], ids=["called", "made"])
def test_nothing_can_be_set_or_deleted(place: Place, name: str) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(place, name, 8)
    with pytest.raises(dataclasses.FrozenInstanceError):
        delattr(place, name)
    assert place == Place("a")


def test_equal_ones_are_those_with_equal_fields() -> None:
    assert Place("a", 1) == Place("a", 1) == maker_of(Place)("a", 1)
    assert hash(Place("a", 1)) == hash(Place("a", 1))
    assert Place("a", 1) != Place("a", 2)
    assert Place("a") != ("a", 7, None)


def test_it_is_copied_pickled_replaced_and_taken_apart() -> None:
    place = Place("a", beyond=[1])  # type: ignore[arg-type]
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(place, protocol)) == place
    deep = copy.deepcopy(place)
    assert copy.copy(place) == deep == place and deep.beyond is not place.beyond
    assert dataclasses.replace(place, at=1) == Place("a", 1, [1])  # type: ignore[arg-type]
    assert dataclasses.asdict(place) == {"name": "a", "at": 7, "beyond": [1]}
    assert weakref.ref(place)() is place


def test_who_subclasses_it_is_told_what_to_do() -> None:
    with pytest.raises(
        TypeError, match="Place cannot be subclassed: put one into a class of yours"
    ):
        type("Nearer", (Place,), {})


def test_it_has_no_dict() -> None:
    assert not hasattr(Place("a"), "__dict__")


def test_help_says_what_it_takes() -> None:
    assert list(inspect.signature(Place).parameters) == ["name", "at", "beyond"]
    assert inspect.signature(Place).parameters["at"].default == 7
    assert Place.__doc__ == "Where something is."
    assert (Place.__module__, Place.__qualname__) == (__name__, "Place")
