# SPDX-License-Identifier: LGPL-2.1-or-later
"""drgn's types and variables, made from BTF, kallsyms and tables of global and per-CPU variables.

A :class:`BtfFinder` is the type finder and the object finder of a Program without debuginfo. It
builds drgn's types when they are looked up.

A lookup of a name that does not exist returns ``None``, as drgn expects of a finder; drgn then
raises LookupError. A lookup that meets damaged BTF raises
:exc:`~drgn_tools.errors.TypesError`. So does, later, the access to a damaged member of a type
that is otherwise good.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cached_property, partial
from typing import ClassVar, Optional, Union

from drgn import (
    FindObjectFlags,
    Object,
    Program,
    Qualifiers,
    Type,
    TypeEnumerator,
    TypeKind,
    TypeKindSet,
    TypeMember,
    TypeParameter,
    sizeof,
)

from ..errors import TypesError
from ..memory import read_or_none
from .btf import MAX_CHAIN, Btf, BtfMember, Kind, damaged
from .global_types import GLOBALS
from .kallsyms import Kallsyms
from .per_cpu_types import PER_CPU

__all__ = ("BtfFinder",)

_BTF_KINDS = {
    TypeKind.STRUCT: (Kind.STRUCT,),
    TypeKind.UNION: (Kind.UNION,),
    TypeKind.ENUM: (Kind.ENUM, Kind.ENUM64),
    TypeKind.TYPEDEF: (Kind.TYPEDEF,),
    TypeKind.INT: (Kind.INT,),
    TypeKind.BOOL: (Kind.INT,),
    TypeKind.FLOAT: (Kind.FLOAT,),
}
_GCC_NAMES = {
    "short": "short int",
    "unsigned short": "short unsigned int",
    "long": "long int",
    "unsigned long": "long unsigned int",
    "long long": "long long int",
    "unsigned long long": "long long unsigned int",
}
"""The spelling that drgn looks up first -> gcc's spelling in debug information."""
_INT_SIGNED, _INT_BOOL = 1, 4
_INT_SIZES = (1, 2, 4, 8, 16)
_ENUM_TYPES = {1: "char", 2: "short", 4: "int", 8: "long"}
_FLOAT_SIZES = (2, 4, 8, 12, 16)
_ARRAY = re.compile(r"(.*?) ?\[(\w*)\]")
_MAX_ARRAY_BYTES = 1 << 20
"""The largest variable whose elements are counted; those of the table have a few hundred bytes."""

# Type letters of kallsyms, see nm(1). Per-CPU variables are A until v6.14.
_DATA = "AaBbCcDdGgNnRrSsVv"
_TEXT = "TtWw"


class BtfFinder:
    """Types and objects of one program.

    :param btf: types of the kernel of this program
    :param kallsyms: addresses of variables and functions; none are found if it is ``None``
    """

    def __init__(self, prog: Program, btf: Btf, kallsyms: Optional[Kallsyms]) -> None:
        self._prog = prog
        self._btf = btf
        self._kallsyms = kallsyms
        self._types: dict[int, Type] = {}
        self._bit_fields: dict[int, tuple[int, int]] = {}

    # ---- drgn's finders

    def find_type(
        self, prog: Program, kinds: TypeKindSet, name: str, filename: Optional[str]
    ) -> Optional[Type]:
        """Find a type by kind and name (see Program.register_type_finder()).

        drgn looks an integer type up by every spelling in turn, so that it finds the compiler's.
        gcc's spelling is tried at once, because it takes long to find that a name does not exist.

        :param filename: nothing is found if it is given: BTF has no names of files
        :raises TypesError: if the BTF is damaged there
        """
        if filename is not None:
            return None
        for kind in kinds:
            for btf_kind in _BTF_KINDS.get(kind, ()):
                type_id = None
                if btf_kind == Kind.INT and name in _GCC_NAMES:
                    type_id = self._btf.find(btf_kind, _GCC_NAMES[name])
                if type_id is None:
                    type_id = self._btf.find(btf_kind, name)
                if type_id is not None:
                    found = self.type(type_id)
                    if found.kind == kind:
                        return found
        return None

    def find_object(
        self, prog: Program, name: str, flags: FindObjectFlags, filename: Optional[str]
    ) -> Optional[Object]:
        """Find a variable, function or enumerator (see Program.register_object_finder()).

        :param filename: nothing is found if it is given: BTF has no names of files
        :raises TypesError: if the BTF is damaged there
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
        return found

    def _variable(self, name: str) -> Optional[Object]:
        if self._kallsyms is None:
            return None
        # A function may have the name of a variable. But v7.2 gives the letter of
        # text ('T') to .data as well, so the letter only serves to choose.
        addresses = self._kallsyms.find(name, _DATA) or self._kallsyms.find(name)
        if len(addresses) != 1:  # several static variables: which one is unclear
            return None
        type_id = self._btf.find(Kind.VAR, name)
        if type_id is not None:
            referred = self._btf.referred(type_id)
            self._btf.byte_size(referred)
            return Object(self._prog, self.type(referred), address=addresses[0])
        type = self._declared(name, addresses[0])
        return Object(self._prog, type, address=addresses[0]) if type else None

    def _declared(self, name: str, address: int) -> Optional[Type]:
        # Return the type of a variable of the tables, None if they or this kernel do
        # not have it, or the variable is too small for it.
        assert self._kallsyms is not None
        is_offset = address in self._per_cpu_offsets
        if is_offset:
            declaration = PER_CPU.get(name)
        else:
            declaration = GLOBALS.get(name)
            if declaration is None and not self._kallsyms.find("__per_cpu_offset"):
                declaration = PER_CPU.get(name)  # CONFIG_SMP=n: a global variable
        if declaration is None:
            return None
        room = self._kallsyms.room_at(address)
        array = _ARRAY.fullmatch(declaration)
        try:
            type = self._prog.type(array[1] if array else declaration)
            size = sizeof(type)
            if array is not None:
                length = self._length(array[2], size, room, None if is_offset else address)
                type, size = self._prog.array_type(type, length), size * length
        except (LookupError, TypeError):  # not in this kernel, or damaged: it has no size
            return None
        return type if 0 < size <= room else None

    @cached_property
    def _per_cpu_offsets(self) -> range:
        # The addresses that kallsyms gives to per-CPU variables: drgn and the kernel add the
        # offset of a CPU to them. In x86-64 they begin at 0 until v6.15, else in the image.
        assert self._kallsyms is not None
        starts, ends = (self._kallsyms.find(f"__per_cpu_{edge}") for edge in ("start", "end"))
        return range(starts[0], ends[0]) if starts and ends else range(0)

    def _length(self, length: str, element_bytes: int, room: int, address: Optional[int]) -> int:
        if length.isdecimal():
            return int(length)
        if length:
            enumerator = self._btf.find_enumerator(length)
            return max(enumerator[1], 0) if enumerator else 0
        data = b""
        if address is not None:
            # An array that is not in the dump exists all the same. Without __per_cpu_offset
            # drgn would take the kernel for one without CONFIG_SMP, and per_cpu() would read
            # from a wrong address.
            data = read_or_none(self._prog, address, min(room, _MAX_ARRAY_BYTES)) or b""
        used = -(-len(data.rstrip(b"\0")) // element_bytes) if element_bytes else 0
        return used or room // max(element_bytes, 1)

    def _function(self, name: str) -> Optional[Object]:
        addresses = self._kallsyms.find(name, _TEXT) if self._kallsyms else []
        type_id = self._btf.find(Kind.FUNC, name) if addresses else None
        if type_id is None:
            return None
        prototype = self._btf.referred(type_id)
        if self._btf.kind(prototype) != Kind.FUNC_PROTO:
            raise damaged(f"function {type_id} without a prototype")
        return Object(self._prog, self.type(prototype), address=addresses[0])

    def _constant(self, name: str) -> Optional[Object]:
        found = self._btf.find_enumerator(name)
        return Object(self._prog, self.type(found[0]), found[1]) if found else None

    # ---- from BTF to drgn

    def type(self, type_id: int, depth: int = 0) -> Type:
        """Return the drgn type of a BTF type.

        Structs are built without the types of their members, so that only
        pointers, qualifiers, typedefs, arrays and return types are followed.

        :param type_id: BTF type ID
        :param depth: how many types refer to this one, of those that are being built
        :raises TypesError: if the BTF is damaged there
        """
        found = self._types.get(type_id)
        if found is None:
            if depth > MAX_CHAIN:
                raise damaged(f"type {type_id} refers to itself")
            kind = self._btf.kind(type_id)
            build = self._BUILD.get(kind)
            if build is None:
                raise damaged(f"{kind.name} where a type should be")
            found = self._types[type_id] = build(self, type_id, depth + 1)
        return found

    def _referred(self, type_id: int, depth: int) -> Type:
        return self.type(self._btf.referred(type_id), depth)

    def _void(self, type_id: int, depth: int) -> Type:
        return self._prog.void_type()

    def _int(self, type_id: int, depth: int) -> Type:
        name, size = self._btf.name(type_id), self._btf.size(type_id)
        if name is None or size not in _INT_SIZES:
            raise damaged(f"integer type {type_id} of {size} bytes")
        encoding = self._btf.int_encoding(type_id)[0]
        if encoding & _INT_BOOL:
            return self._prog.bool_type(name, size)
        return self._prog.int_type(name, size, bool(encoding & _INT_SIGNED))

    def _float(self, type_id: int, depth: int) -> Type:
        name, size = self._btf.name(type_id), self._btf.size(type_id)
        if name is None or size not in _FLOAT_SIZES:
            raise damaged(f"floating-point type {type_id} of {size} bytes")
        return self._prog.float_type(name, size)

    def _pointer(self, type_id: int, depth: int) -> Type:
        return self._prog.pointer_type(self._referred(type_id, depth))

    def _array(self, type_id: int, depth: int) -> Type:
        element, length = self._btf.array(type_id)
        self._btf.byte_size(type_id)
        # BTF does not tell [] and [0] apart; kernels nearly always mean the first.
        return self._prog.array_type(self.type(element, depth), length or None)

    def _typedef(self, type_id: int, depth: int) -> Type:
        name = self._btf.name(type_id)
        if name is None:
            raise damaged(f"typedef {type_id} without a name")
        return self._prog.typedef_type(name, self._referred(type_id, depth))

    def _qualified(self, type_id: int, depth: int, qualifier: Qualifiers) -> Type:
        target = self._referred(type_id, depth)
        return target.qualified(target.qualifiers | qualifier)

    def _forward(self, type_id: int, depth: int) -> Type:
        complete = self._btf.resolve_forward(type_id)
        if complete is not None:
            return self.type(complete, depth)
        make = self._prog.union_type if self._btf.kind_flag(type_id) else self._prog.struct_type
        return make(self._btf.name(type_id))

    def _compound(self, type_id: int, depth: int) -> Type:
        self._btf.expanded_members(type_id)
        is_struct = self._btf.kind(type_id) == Kind.STRUCT
        make = self._prog.struct_type if is_struct else self._prog.union_type
        size = self._btf.size(type_id)
        return make(
            self._btf.name(type_id),
            size,
            [self._member(member, size) for member in self._btf.members(type_id)],
        )

    def _member(self, member: BtfMember, struct_bytes: int) -> TypeMember:
        bit_offset, bits = member.bit_offset, member.bit_field_size
        if not bits:
            int_offset, bits = self._bit_field_of(member.type_id)
            bit_offset += int_offset
        build = partial(self._member_type, member.type_id, bit_offset, bits, struct_bytes)
        return TypeMember(build, member.name, bit_offset)

    def _bit_field_of(self, type_id: int) -> tuple[int, int]:
        # Without kind_flag, a bit field has an INT of its own as its type. Return that
        # INT's offset and size in bits, (0, 0) for any other type.
        try:
            return self._bit_fields[type_id]
        except KeyError:
            found = 0, 0
            with suppress(TypesError):  # it is raised when the member is used
                if self._btf.kind(type_id) == Kind.INT:
                    _, int_offset, int_bits = self._btf.int_encoding(type_id)
                    if int_bits != 8 * self._btf.size(type_id):
                        found = int_offset, int_bits
            self._bit_fields[type_id] = found
            return found

    def _member_type(
        self, type_id: int, bit_offset: int, bit_field_size: int, struct_bytes: int
    ) -> Union[Object, Type]:
        size = self._btf.byte_size(type_id)
        if (
            bit_offset + (bit_field_size or 8 * size) > 8 * struct_bytes
            or bit_field_size > 8 * size
        ):
            raise damaged(f"a member of type {type_id} outside its struct")
        type = self.type(type_id)
        if not bit_field_size:
            return type
        underlying = type
        while underlying.kind == TypeKind.TYPEDEF:
            underlying = underlying.type
        if underlying.kind not in (TypeKind.INT, TypeKind.BOOL, TypeKind.ENUM):
            raise damaged(f"a bit field of type {type_id}, which is no integer")
        return Object(self._prog, type, bit_field_size=bit_field_size)

    def _enum(self, type_id: int, depth: int) -> Type:
        size, is_signed = self._btf.size(type_id), self._btf.enum_is_signed(type_id)
        if size not in _ENUM_TYPES:
            raise damaged(f"enum {type_id} of {size} bytes")
        name = _ENUM_TYPES[size] if is_signed else f"unsigned {_ENUM_TYPES[size]}"
        return self._prog.enum_type(
            self._btf.name(type_id),
            self._prog.int_type(name, size, is_signed),
            [TypeEnumerator(*enumerator) for enumerator in self._btf.enumerators(type_id)],
        )

    def _prototype(self, type_id: int, depth: int) -> Type:
        parameters = self._btf.parameters(type_id)
        is_variadic = bool(parameters) and parameters[-1] == (None, 0)
        if is_variadic:
            parameters.pop()
        return self._prog.function_type(
            self._referred(type_id, depth),
            [TypeParameter(partial(self.type, parameter), name) for name, parameter in parameters],
            is_variadic,
        )

    _BUILD: ClassVar[Mapping[Kind, Callable[[BtfFinder, int, int], Type]]] = {
        Kind.VOID: _void,
        Kind.INT: _int,
        Kind.PTR: _pointer,
        Kind.ARRAY: _array,
        Kind.STRUCT: _compound,
        Kind.UNION: _compound,
        Kind.ENUM: _enum,
        Kind.FWD: _forward,
        Kind.TYPEDEF: _typedef,
        Kind.VOLATILE: partial(_qualified, qualifier=Qualifiers.VOLATILE),
        Kind.CONST: partial(_qualified, qualifier=Qualifiers.CONST),
        Kind.RESTRICT: partial(_qualified, qualifier=Qualifiers.RESTRICT),
        Kind.FUNC_PROTO: _prototype,
        Kind.FLOAT: _float,
        Kind.TYPE_TAG: _referred,
        Kind.ENUM64: _enum,
    }
