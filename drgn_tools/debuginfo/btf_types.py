# SPDX-License-Identifier: LGPL-2.1-or-later
"""drgn's types, made from BTF when they are looked up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import ClassVar, Optional, Union

from drgn import (
    Object,
    Program,
    Qualifiers,
    Type,
    TypeEnumerator,
    TypeKind,
    TypeKindSet,
    TypeMember,
    TypeParameter,
)

from ..errors import TypesError
from .btf import MAX_CHAIN, Btf, BtfMember, Kind, damaged

__all__ = ("BtfTypes",)

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


class BtfTypes:
    """The types of the kernel image, or of a module.

    :param btf: types of the kernel of this program
    :param base: types of the kernel image, if *btf* is of a module and continues them
    """

    def __init__(self, prog: Program, btf: Btf, base: Optional[BtfTypes] = None) -> None:
        self._prog = prog
        self.btf = btf
        self._base = base
        self._types: dict[int, Type] = {}
        self._bit_fields: dict[int, tuple[int, int]] = {}

    def find(self, kinds: TypeKindSet, name: str) -> Optional[Type]:
        """Find a type by kind and name; those of the base do not count.

        drgn looks up an integer type by each spelling in turn, until it finds the compiler's. This tries gcc's
        spelling first, because it takes long to find that a name does not exist.

        :raises TypesError: if the BTF is damaged there
        """
        for kind in kinds:
            for btf_kind in _BTF_KINDS.get(kind, ()):
                type_id = None
                if btf_kind == Kind.INT and name in _GCC_NAMES:
                    type_id = self.btf.find(btf_kind, _GCC_NAMES[name])
                if type_id is None:
                    type_id = self.btf.find(btf_kind, name)
                if type_id is not None:
                    found = self.type(type_id)
                    if found.kind == kind:
                        return found
        return None

    def enumerator(self, name: str) -> Optional[Object]:
        """Return the first enumerator with this name; those of the base do not count.

        :raises TypesError: if the BTF is damaged there
        """
        found = self.btf.find_enumerator(name)
        return Object(self._prog, self.type(found[0]), found[1]) if found else None

    def prototype(self, name: str) -> Optional[Type]:
        """Return the type of the first function with this name; those of the base do not count.

        :raises TypesError: if the BTF is damaged there
        """
        type_id = self.btf.find(Kind.FUNC, name)
        if type_id is None:
            return None
        prototype = self.btf.referred(type_id)
        if self.btf.kind(prototype) != Kind.FUNC_PROTO:
            raise damaged(f"function {type_id} without a prototype")
        return self.type(prototype)

    def variable(self, name: str) -> Optional[Type]:
        """Return the type of the first variable with this name; those of the base do not count.

        :raises TypesError: if the BTF is damaged there
        """
        type_id = self.btf.find(Kind.VAR, name)
        if type_id is None:
            return None
        referred = self.btf.referred(type_id)
        self.btf.byte_size(referred)
        return self.type(referred)

    def type(self, type_id: int, depth: int = 0) -> Type:
        """Return the drgn type of a BTF type.

        Structs are built without the types of their members, so that only
        pointers, qualifiers, typedefs, arrays and return types are followed.

        :param type_id: BTF type ID
        :param depth: how many of the types that are being built lead to this one
        :raises TypesError: if the BTF is damaged there
        """
        if self._base is not None and type_id < self.btf.first_id:
            return self._base.type(type_id, depth)
        found = self._types.get(type_id)
        if found is None:
            if depth > MAX_CHAIN:
                raise damaged(f"type {type_id} refers to itself")
            kind = self.btf.kind(type_id)
            build = self._BUILD.get(kind)
            if build is None:
                raise damaged(f"{kind.name} where a type should be")
            found = self._types[type_id] = build(self, type_id, depth + 1)
        return found

    def _referred(self, type_id: int, depth: int) -> Type:
        return self.type(self.btf.referred(type_id), depth)

    def _void(self, type_id: int, depth: int) -> Type:
        return self._prog.void_type()

    def _int(self, type_id: int, depth: int) -> Type:
        name, size = self.btf.name(type_id), self.btf.size(type_id)
        if name is None or size not in _INT_SIZES:
            raise damaged(f"integer type {type_id} of {size} bytes")
        encoding = self.btf.int_encoding(type_id)[0]
        if encoding & _INT_BOOL:
            return self._prog.bool_type(name, size)
        return self._prog.int_type(name, size, bool(encoding & _INT_SIGNED))

    def _float(self, type_id: int, depth: int) -> Type:
        name, size = self.btf.name(type_id), self.btf.size(type_id)
        if name is None or size not in _FLOAT_SIZES:
            raise damaged(f"floating-point type {type_id} of {size} bytes")
        return self._prog.float_type(name, size)

    def _pointer(self, type_id: int, depth: int) -> Type:
        return self._prog.pointer_type(self._referred(type_id, depth))

    def _array(self, type_id: int, depth: int) -> Type:
        element, length = self.btf.array(type_id)
        self.btf.byte_size(type_id)
        # BTF does not distinguish [] from [0]; kernels nearly always mean [].
        return self._prog.array_type(self.type(element, depth), length or None)

    def _typedef(self, type_id: int, depth: int) -> Type:
        name = self.btf.name(type_id)
        if name is None:
            raise damaged(f"typedef {type_id} without a name")
        return self._prog.typedef_type(name, self._referred(type_id, depth))

    def _qualified(self, type_id: int, depth: int, qualifier: Qualifiers) -> Type:
        target = self._referred(type_id, depth)
        return target.qualified(target.qualifiers | qualifier)

    def _forward(self, type_id: int, depth: int) -> Type:
        complete = self.btf.resolve_forward(type_id)
        if complete is not None:
            return self.type(complete, depth)
        make = self._prog.union_type if self.btf.kind_flag(type_id) else self._prog.struct_type
        return make(self.btf.name(type_id))

    def _compound(self, type_id: int, depth: int) -> Type:
        self.btf.expanded_members(type_id)
        is_struct = self.btf.kind(type_id) == Kind.STRUCT
        make = self._prog.struct_type if is_struct else self._prog.union_type
        size = self.btf.size(type_id)
        return make(
            self.btf.name(type_id),
            size,
            [self._member(member, size) for member in self.btf.members(type_id)],
        )

    def _member(self, member: BtfMember, struct_bytes: int) -> TypeMember:
        bit_offset, bits = member.bit_offset, member.bit_field_size
        if not bits:
            int_offset, bits = self._bit_field_of(member.type_id)
            bit_offset += int_offset
        build = partial(self._member_type, member.type_id, bit_offset, bits, struct_bytes)
        return TypeMember(build, member.name, bit_offset)

    def _bit_field_of(self, type_id: int) -> tuple[int, int]:
        # Without kind_flag, the type of a bit field is an INT of its own. Return the
        # offset and size of that INT in bits; (0, 0) for any other type.
        try:
            return self._bit_fields[type_id]
        except KeyError:
            found = 0, 0
            with suppress(TypesError):  # it is raised when the member is used
                if self.btf.kind(type_id) == Kind.INT:
                    _, int_offset, int_bits = self.btf.int_encoding(type_id)
                    if int_bits != 8 * self.btf.size(type_id):
                        found = int_offset, int_bits
            self._bit_fields[type_id] = found
            return found

    def _member_type(
        self, type_id: int, bit_offset: int, bit_field_size: int, struct_bytes: int
    ) -> Union[Object, Type]:
        size = self.btf.byte_size(type_id)
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
            raise damaged(f"a bit field of type {type_id}, which is not an integer")
        return Object(self._prog, type, bit_field_size=bit_field_size)

    def _enum(self, type_id: int, depth: int) -> Type:
        size, is_signed = self.btf.size(type_id), self.btf.enum_is_signed(type_id)
        if size not in _ENUM_TYPES:
            raise damaged(f"enum {type_id} of {size} bytes")
        name = _ENUM_TYPES[size] if is_signed else f"unsigned {_ENUM_TYPES[size]}"
        return self._prog.enum_type(
            self.btf.name(type_id),
            self._prog.int_type(name, size, is_signed),
            [TypeEnumerator(*enumerator) for enumerator in self.btf.enumerators(type_id)],
        )

    def _prototype(self, type_id: int, depth: int) -> Type:
        parameters = self.btf.parameters(type_id)
        is_variadic = bool(parameters) and parameters[-1] == (None, 0)
        if is_variadic:
            parameters.pop()
        return self._prog.function_type(
            self._referred(type_id, depth),
            [TypeParameter(partial(self.type, parameter), name) for name, parameter in parameters],
            is_variadic,
        )

    _BUILD: ClassVar[Mapping[Kind, Callable[[BtfTypes, int, int], Type]]] = {
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
