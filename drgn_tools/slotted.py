# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is made by the million, made quickly: frozen dataclasses with slots, and named tuples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import FrozenInstanceError, fields
from functools import partial
from typing import Any, Callable, NoReturn, TypeVar, cast

__all__ = ("maker_of", "slotted", "tuple_maker_of")

T = TypeVar("T")


class _Referable:
    """What weak references need; apart, because where slots of one class lie must not differ for it."""

    __slots__ = ("__weakref__",)


def slotted(record: type[T]) -> type[T]:
    """Gives a frozen dataclass slots for its fields, and a quick way of being made.

    What dataclasses makes of ``frozen=True`` sets each field with a call of
    object.__setattr__(), because nothing else may; ``slots=True`` is not there before Python
    3.10. Here the fields are set while the record is of a class that is not frozen.

    It cannot be subclassed, which is said to who tries.

    :param record: a dataclass without ``__post_init__``, factories of defaults, and base classes
    """
    names = tuple([field.name for field in fields(record)])  # type: ignore[arg-type]
    dropped = {*names, "__dict__", "__weakref__", "__init__"}
    body = {name: what for name, what in vars(record).items() if name not in dropped}
    slotted: Any = type(record.__name__, (_Referable,), {**body, "__slots__": names})
    slotted.__qualname__ = record.__qualname__
    slotted.__setattr__ = slotted.__delattr__ = _frozen
    slotted.__reduce__ = _reduce
    slotted.__init_subclass__ = classmethod(_no_subclass)
    slotted._make, slotted.__new__ = _makers(slotted, names)
    for made in (slotted._make, slotted.__new__):
        made.__defaults__ = record.__init__.__defaults__
        made.__annotations__ = record.__init__.__annotations__
        made.__module__ = record.__module__
    return cast(type[T], slotted)


def maker_of(record: type[T]) -> Callable[..., T]:
    """What calling a :func:`slotted` class does, for those who do it for each of a million tasks.

    A class packs its arguments into a tuple first.
    """
    return cast(Callable[..., T], record.__dict__["_make"].__func__)


def tuple_maker_of(record: type[T]) -> Callable[[tuple[Any, ...]], T]:
    """What calling a NamedTuple class with these fields does, without a call of Python code for each."""
    return partial(tuple.__new__, cast(Any, record))


def _makers(record: type, names: Sequence[str]) -> tuple[Any, Any]:
    """A function that makes a record, and its ``__new__()``."""
    draft = type(f"_{record.__name__}Draft", (_Referable,), {"__slots__": names})
    places = "\n".join([f"    new.{name} = {name}" for name in names])
    namespace: dict[str, Any] = {"draft": draft, "record": record}
    for head, made in (("make(", "record"), ("__new__(cls, ", "cls")):
        body = f"    new = draft()\n{places}\n    new.__class__ = {made}\n    return new\n"
        exec(f"def {head}{', '.join(names)}):\n{body}", namespace)
    return staticmethod(namespace["make"]), namespace["__new__"]


def _no_subclass(cls: type) -> NoReturn:
    raise TypeError(
        f"{cls.__mro__[1].__name__} cannot be subclassed: put one into a class of yours"
    )


def _frozen(self: object, name: str, *value: object) -> NoReturn:
    raise FrozenInstanceError(f"cannot assign to field {name!r}")


def _reduce(self: Any) -> tuple[Any, ...]:
    return type(self), tuple([getattr(self, field.name) for field in fields(self)])
