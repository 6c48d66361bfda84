# SPDX-License-Identifier: LGPL-2.1-or-later
"""drgn's types and variables, made from BTF, kallsyms and tables of global and per-CPU variables.

A :class:`BtfFinder` is the type finder and the object finder of a Program without debuginfo. It
looks in the BTF of the kernel image first, then in that of each module.

A lookup of a name that does not exist returns ``None``, as drgn expects of a finder; drgn then
raises LookupError. A lookup that finds damaged BTF raises
:exc:`~drgn_tools.errors.TypesError`. A later access to a damaged member of an otherwise good
type also raises it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Optional, Union

from drgn import FindObjectFlags, Object, Program, Type, TypeKind, TypeKindSet, sizeof

from ..memory import read_or_none
from .btf import Btf
from .btf_types import BtfTypes
from .declarations import Condition, DeclarationError, make_type, parse_type
from .function_types import function_type
from .global_types import GLOBALS, Declared
from .kallsyms import Kallsyms
from .kernel_params import variable_of_parameter
from .module_btf import module_btfs
from .per_cpu_types import PER_CPU
from .symbol_finder import module_addresses

__all__ = ("BtfFinder",)

_MAX_ARRAY_BYTES = 1 << 20
"""Most bytes of a variable that are read to count its elements; variables of the table have a few hundred bytes."""

_CACHE_LINE_BYTES = 64
"""Largest alignment that compilers give to variables."""

# Type letters of kallsyms, see nm(1). Per-CPU variables are A until v6.14.
_DATA = "AaBbCcDdGgNnRrSsVv"
_TEXT = "TtWw"


class BtfFinder:
    """Types and objects of one program.

    :param btf: types of the kernel of this program
    :param kallsyms: addresses of variables and functions; if ``None``, no variables, functions and modules
        are found
    :param name: name of the object finder in drgn
    """

    def __init__(
        self, prog: Program, btf: Btf, kallsyms: Optional[Kallsyms], name: str = ""
    ) -> None:
        self._prog = prog
        self._image = BtfTypes(prog, btf)
        self._kallsyms = kallsyms
        self._name = name
        self._reading_modules = False

    # ---- drgn's finders

    def find_type(
        self, prog: Program, kinds: TypeKindSet, name: str, filename: Optional[str]
    ) -> Optional[Type]:
        """Find a type by kind and name (see Program.register_type_finder()).

        :param filename: nothing is found if it is given: BTF has no names of files
        :raises TypesError: if the BTF is damaged there
        """
        if filename is not None:
            return None
        found = (types.find(kinds, name) for types in self._all_types())
        return next((type for type in found if type is not None), None)

    def find_object(
        self, prog: Program, name: str, flags: FindObjectFlags, filename: Optional[str]
    ) -> Optional[Object]:
        """Find a variable, function or enumerator (see Program.register_object_finder()).

        :param filename: nothing is found if it is given: BTF has no names of files
        :raises TypesError: if the BTF is damaged there
        :raises LookupError: if the kernel image has symbols with this name, but the type is not known or
            there are several, and no finder comes after this one. drgn treats this as its own error.
        """
        if filename is not None:
            return None
        found: Optional[Object] = None
        if flags & FindObjectFlags.VARIABLE:
            found = self._variable(name)
        if found is None and flags & FindObjectFlags.FUNCTION:
            found = self._function(name)
        if found is None and flags & FindObjectFlags.CONSTANT:
            found = self._constant(name)
        if found is None:
            self._explain(name, flags)
        return found

    # ---- modules

    def _all_types(self) -> Iterator[BtfTypes]:
        yield self._image
        yield from self._modules()

    def _modules(self) -> list[BtfTypes]:
        # No modules while they are being read: the types that this needs are in the image.
        return [] if self._reading_modules else self._module_types

    @cached_property
    def _module_types(self) -> list[BtfTypes]:
        if self._kallsyms is None or not self._kallsyms.find("btf_modules"):
            return []
        self._reading_modules = True
        try:
            found = module_btfs(self._prog, self._image.btf)
            return [BtfTypes(self._prog, btf, self._image) for btf in found]
        finally:
            self._reading_modules = False

    # ---- objects

    def _variable(self, name: str) -> Optional[Object]:
        if self._kallsyms is None:
            return None
        # A function may have the name of a variable. But v7.2 gives the letter of
        # text ('T') to .data as well, so the letter is only a preference.
        addresses = self._kallsyms.find(name, _DATA) or self._kallsyms.find(name)
        if not addresses:
            return self._module_variable(name)
        address: Optional[int] = addresses[0]
        if len(addresses) > 1:  # several static variables
            address = variable_of_parameter(self._prog, self._kallsyms, name, addresses)
        if address is None:
            return None
        type = self._image.variable(name) or self._declared(name, address)
        return Object(self._prog, type, address=address) if type else None

    def _module_variable(self, name: str) -> Optional[Object]:
        for types in self._modules():
            type = types.variable(name)
            if type is not None:
                addresses = module_addresses(self._prog, name)
                if len(addresses) == 1:
                    return Object(self._prog, type, address=addresses[0])
        return None

    def _declared(self, name: str, address: int) -> Optional[Type]:
        # Return the type that the tables give to a variable; None if they or this kernel do
        # not have it, or if it is larger than the variable.
        assert self._kallsyms is not None
        is_offset = address in self._per_cpu_offsets
        declared: Optional[Declared]
        if is_offset:
            declared = PER_CPU.get(name)
        else:
            declared = GLOBALS.get(name)
            if declared is None and not self._kallsyms.find("__per_cpu_offset"):
                declared = PER_CPU.get(name)  # CONFIG_SMP=n: a global variable
        if declared is None:
            return None
        choices = (declared,) if isinstance(declared, str) else declared
        room = self._kallsyms.room_at(address)
        types = (
            self._of_declaration(choice, room, None if is_offset else address) for choice in choices
        )
        return next((type for type in types if type is not None), None)

    def _of_declaration(
        self, choice: Union[str, Condition], room: int, address: Optional[int]
    ) -> Optional[Type]:
        def fill(type: Type, repeated: int, is_outermost: bool) -> int:
            return self._elements(type, repeated, room, address if is_outermost else None)

        try:
            if isinstance(choice, Condition):
                if not self._prog.type(choice.type).has_member(choice.member):
                    return None
                choice = choice.declaration
            type = make_type(self._prog, parse_type(choice), fill)
            return type if 0 < sizeof(type) <= room else None
        except (LookupError, TypeError, SyntaxError, DeclarationError):
            return None  # not in this kernel, or damaged: it has no size

    @cached_property
    def _per_cpu_offsets(self) -> range:
        # The addresses that kallsyms gives to per-CPU variables: drgn and the kernel add the
        # offset of a CPU to them. On x86-64 they begin at 0 until v6.15, otherwise in the image.
        assert self._kallsyms is not None
        starts, ends = (self._kallsyms.find(f"__per_cpu_{edge}") for edge in ("start", "end"))
        return range(starts[0], ends[0]) if starts and ends else range(0)

    def _elements(self, type: Type, repeated: int, room: int, address: Optional[int]) -> int:
        data = b""
        if address is not None:
            # An array that is not in the dump gets a type, too. Without __per_cpu_offset
            # drgn would treat the kernel as one without CONFIG_SMP, and per_cpu() would read
            # from a wrong address.
            data = read_or_none(self._prog, address, min(room, _MAX_ARRAY_BYTES)) or b""
        if type.kind is TypeKind.INT and type.name == "char" and repeated == 1:
            used = data.find(b"\0") + 1  # a string
        else:
            used = len(data.rstrip(b"\0"))
            if len(data) - used >= _CACHE_LINE_BYTES:
                used = 0  # more zeros than any padding: they are elements
        return -(-used // repeated) or room // repeated

    def _function(self, name: str) -> Optional[Object]:
        if self._kallsyms is None:
            return None
        addresses = self._kallsyms.find(name, _TEXT)
        if addresses:
            type = self._image.prototype(name) or function_type(self._prog, name)
            return Object(self._prog, type, address=addresses[0]) if type else None
        for types in self._modules():
            type = types.prototype(name)
            if type is not None:
                addresses = module_addresses(self._prog, name)
                if addresses:
                    return Object(self._prog, type, address=addresses[0])
        return None

    def _constant(self, name: str) -> Optional[Object]:
        found = (types.enumerator(name) for types in self._all_types())
        return next((constant for constant in found if constant is not None), None)

    def _explain(self, name: str, flags: FindObjectFlags) -> None:
        # drgn does not call the finders after one that raises.
        enabled = self._prog.enabled_object_finders()
        if self._kallsyms is None or enabled[-1:] != [self._name]:
            return
        wanted = _DATA * bool(flags & FindObjectFlags.VARIABLE)
        wanted += _TEXT * bool(flags & FindObjectFlags.FUNCTION)
        addresses = self._kallsyms.find(name, wanted) if wanted else []
        if len(addresses) > 1:
            raise LookupError(
                f"the kernel has {len(addresses)} symbols {name!r}, and it is not known which one is "
                f'meant; Object(prog, "TYPE", address=...) takes one of prog.symbols("{name}")'
            )
        if addresses:
            raise LookupError(
                f"{name!r} is a symbol of the kernel, at {addresses[0]:#x}, but its BTF has no "
                f'type for it; drgn_tools.declare(prog, "TYPE {name}") gives it one'
            )
