# SPDX-License-Identifier: LGPL-2.1-or-later
"""drgn's types and variables, made of BTF and kallsyms.

A :class:`BtfFinder` builds drgn types when they are asked for and serves as
type finder and object finder of a Program that has no debuginfo.
"""

from __future__ import annotations

from functools import partial
from typing import Callable, Optional

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
)

from .btf import MAX_CHAIN, Btf, Kind
from .errors import TypesError
from .globals import GLOBALS
from .kallsyms import kallsyms_of

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
_SIGNED, _CHAR, _BOOL = 1, 2, 4


class BtfFinder:
    """Types and objects of *prog* by what its BTF says."""

    def __init__(self, prog: Program, btf: Btf) -> None:
        self._prog = prog
        self._btf = btf
        self._types: dict[int, Type] = {}

    def find_type(
        self, prog: Program, kinds: TypeKindSet, name: str, filename: Optional[str]
    ) -> Optional[Type]:
        """Find a type for drgn (see Program.register_type_finder())."""
        if filename is not None:
            return None
        for kind in kinds:
            for btf_kind in _BTF_KINDS.get(kind, ()):
                type_id = self._btf.find(btf_kind, name)
                if type_id is not None:
                    found = self.type(type_id)
                    if found.kind == kind:
                        return found
        return None

    def find_object(
        self, prog: Program, name: str, flags: FindObjectFlags, filename: Optional[str]
    ) -> Optional[Object]:
        """Find a variable, function or enumerator for drgn (see Program.register_object_finder())."""
        if filename is not None:
            return None
        if flags & FindObjectFlags.VARIABLE:
            type_id = self._btf.find(Kind.VAR, name)
            if type_id is not None:
                return self._located(name, self.type(self._btf.referred(type_id)))
            if name in GLOBALS:
                return self._located(name, prog.type(GLOBALS[name]))
        if flags & FindObjectFlags.FUNCTION:
            type_id = self._btf.find(Kind.FUNC, name)
            if type_id is not None:
                return self._located(name, self.type(self._btf.referred(type_id)))
        if flags & FindObjectFlags.CONSTANT:
            constant = self._btf.find_enumerator(name)
            if constant is not None:
                return Object(prog, self.type(constant[0]), constant[1])
        return None

    def _located(self, name: str, type: Type) -> Optional[Object]:
        kallsyms = kallsyms_of(self._prog)
        addresses = kallsyms.find(name) if kallsyms else []
        return Object(self._prog, type, address=addresses[0]) if addresses else None

    def type(self, type_id: int, depth: int = 0) -> Type:
        """Return the drgn type of a BTF type.

        :raises TypesError: if the BTF is damaged there
        """
        found = self._types.get(type_id)
        if found is None:
            if depth > MAX_CHAIN:
                raise TypesError(f"kernel BTF is damaged: type {type_id} refers to itself")
            kind = self._btf.kind(type_id)
            build: Optional[Callable[[BtfFinder, int, int], Type]] = _BUILD.get(kind)
            if build is None:
                raise TypesError(f"kernel BTF is damaged: {kind.name} used as a type")
            found = self._types[type_id] = build(self, type_id, depth + 1)
        return found

    def _void(self, type_id: int, depth: int) -> Type:
        return self._prog.void_type()

    def _int(self, type_id: int, depth: int) -> Type:
        name = self._btf.name(type_id) or "int"
        encoding, _, _ = self._btf.int_encoding(type_id)
        size = self._btf.size_field(type_id)
        if encoding & _BOOL:
            return self._prog.bool_type(name, size)
        return self._prog.int_type(name, size, bool(encoding & _SIGNED))

    def _float(self, type_id: int, depth: int) -> Type:
        return self._prog.float_type(
            self._btf.name(type_id) or "float", self._btf.size_field(type_id)
        )

    def _pointer(self, type_id: int, depth: int) -> Type:
        return self._prog.pointer_type(self.type(self._btf.referred(type_id), depth))

    def _array(self, type_id: int, depth: int) -> Type:
        element, length = self._btf.array(type_id)
        # BTF does not tell [0] from []; DWARF's [] is by far the more common.
        return self._prog.array_type(self.type(element, depth), length or None)

    def _typedef(self, type_id: int, depth: int) -> Type:
        return self._prog.typedef_type(
            self._btf.name(type_id) or "", self.type(self._btf.referred(type_id), depth)
        )

    def _const(self, type_id: int, depth: int) -> Type:
        target = self.type(self._btf.referred(type_id), depth)
        return target.qualified(target.qualifiers | Qualifiers.CONST)

    def _volatile(self, type_id: int, depth: int) -> Type:
        target = self.type(self._btf.referred(type_id), depth)
        return target.qualified(target.qualifiers | Qualifiers.VOLATILE)

    def _restrict(self, type_id: int, depth: int) -> Type:
        target = self.type(self._btf.referred(type_id), depth)
        return target.qualified(target.qualifiers | Qualifiers.RESTRICT)

    def _transparent(self, type_id: int, depth: int) -> Type:
        return self.type(self._btf.referred(type_id), depth)

    def _forward(self, type_id: int, depth: int) -> Type:
        name = self._btf.name(type_id)
        is_union = self._btf.kind_flag(type_id)
        complete = self._btf.find(Kind.UNION if is_union else Kind.STRUCT, name or "")
        if complete is not None:
            return self.type(complete, depth)
        return self._prog.union_type(name) if is_union else self._prog.struct_type(name)

    def _compound(self, type_id: int, depth: int) -> Type:
        members = [
            TypeMember(
                partial(self._member_type, member.type_id, member.bit_field_size),
                member.name,
                member.bit_offset,
            )
            for member in self._btf.members(type_id)
        ]
        make = (
            self._prog.struct_type
            if self._btf.kind(type_id) == Kind.STRUCT
            else self._prog.union_type
        )
        return make(self._btf.name(type_id), self._btf.size_field(type_id), members)

    def _member_type(self, type_id: int, bit_field_size: int) -> Object | Type:
        type = self.type(type_id)
        if bit_field_size:
            return Object(self._prog, type, bit_field_size=bit_field_size)
        return type

    def _enum(self, type_id: int, depth: int) -> Type:
        size = self._btf.size_field(type_id)
        signed = self._btf.enum_is_signed(type_id)
        name = {1: "char", 2: "short", 4: "int", 8: "long"}.get(size, "int")
        compatible = self._prog.int_type(name if signed else f"unsigned {name}", size, signed)
        enumerators = [TypeEnumerator(*pair) for pair in self._btf.enumerators(type_id)]
        return self._prog.enum_type(self._btf.name(type_id), compatible, enumerators)

    def _function(self, type_id: int, depth: int) -> Type:
        parameters = self._btf.parameters(type_id)
        variadic = bool(parameters) and parameters[-1][1] == 0
        if variadic:
            parameters.pop()
        return self._prog.function_type(
            self.type(self._btf.referred(type_id), depth),
            [
                TypeParameter(partial(self.type, parameter_type), name)
                for name, parameter_type in parameters
            ],
            variadic,
        )


_BUILD = {
    Kind.VOID: BtfFinder._void,
    Kind.INT: BtfFinder._int,
    Kind.FLOAT: BtfFinder._float,
    Kind.PTR: BtfFinder._pointer,
    Kind.ARRAY: BtfFinder._array,
    Kind.STRUCT: BtfFinder._compound,
    Kind.UNION: BtfFinder._compound,
    Kind.ENUM: BtfFinder._enum,
    Kind.ENUM64: BtfFinder._enum,
    Kind.FWD: BtfFinder._forward,
    Kind.TYPEDEF: BtfFinder._typedef,
    Kind.CONST: BtfFinder._const,
    Kind.VOLATILE: BtfFinder._volatile,
    Kind.RESTRICT: BtfFinder._restrict,
    Kind.TYPE_TAG: BtfFinder._transparent,
    Kind.FUNC_PROTO: BtfFinder._function,
}
