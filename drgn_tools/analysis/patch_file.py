# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which functions a live patch replaces, read from its module file.

There are three ways to make a live patch. Each stores its list of functions in a different form:

* klp-build (scripts/livepatch/ of the kernel, v7.0 and later): the sections ``.init.klp_objects`` and
  ``.init.klp_funcs``, which contain the structs of linux/livepatch_external.h.
* kpatch-build: the section ``.kpatch.funcs``.
* By hand, against linux/livepatch.h: a ``struct klp_patch`` in the data. Only the argument of the call of
  klp_enable_patch() says where it is.

Sections ``.klp.rela.*`` name what the new code refers to, not what it replaces.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Optional

from drgn import Program, offsetof, sizeof

from ..arch.registry import arch_of
from ..errors import InputError
from ..kernel.probing import probing
from ..program.core_file import open_regular
from ..program.elf_object import ElfObject, Place, read_elf_object
from .planned_patch import PlannedFunction, PlannedPatch

__all__ = ("read_patch_file",)

_WORD_BYTES = 8
_MAX_RECORDS = 100_000
_COMPRESSED = {b"\xfd7zXZ": "xz -dk", b"\x1f\x8b": "gzip -dk", b"\x28\xb5\x2f\xfd": "zstd -dk"}
"""First bytes of a compressed file -> the command that unpacks it."""


def read_patch_file(prog: Program, path: str) -> PlannedPatch:
    """Return which functions a live patch replaces.

    :param prog: The kernel, whose types give the layout of ``struct klp_func``
    :param path: Path of the module file
    :raises InputError: if it cannot be read, or is not a live patch
    """
    with open_regular(path) as file:
        begin = file.read(6)
        for magic, command in _COMPRESSED.items():
            if begin.startswith(magic):
                raise InputError(f"{path}: is compressed: unpack it first, with {command} {path}")
        return _PatchFile(prog, read_elf_object(file, path, arch_of(prog).name), path).read()


class _PatchFile:
    def __init__(self, prog: Program, elf: ElfObject, path: str) -> None:
        self._prog = prog
        self._elf = elf
        self._path = path
        self._left = _MAX_RECORDS

    def read(self) -> PlannedPatch:
        elf, info = self._elf, self._modinfo()
        if info.get("livepatch") != "Y":
            raise InputError(f"{self._path}: is not a live patch: its .modinfo lacks livepatch=Y")
        if elf.section(".init.klp_funcs") is not None:
            functions, replace = list(self._of_klp_build()), True
        elif elf.section(".kpatch.funcs") is not None:
            functions, replace = list(self._of_kpatch_build()), True
        else:
            functions, replace = self._by_hand()
        if not functions:
            raise InputError(f"{self._path}: replaces no function")
        name = info.get("name") or os.path.basename(self._path).split(".ko")[0]
        has_crcs = any(s.name in ("__versions", "__version_ext_crcs") for s in elf.sections)
        return PlannedPatch(name, tuple(functions), replace, info.get("vermagic", ""), has_crcs)

    def _modinfo(self) -> dict[str, str]:
        section = self._elf.section(".modinfo")
        data = b"" if section is None else bytes(self._elf.contents(section))
        lines = (line.decode("ascii", "backslashreplace") for line in data.split(b"\0"))
        pairs = (line.partition("=") for line in lines)
        return {name: value for name, _, value in pairs}

    # ---- klp-build

    def _of_klp_build(self) -> Iterator[PlannedFunction]:
        """Follow livepatch_mod_init() in scripts/livepatch/init.c, v7.2.

        struct klp_object_ext: name 0, funcs 8, callbacks 16, nr_funcs 56; struct klp_func_ext: old_name 0,
        new_func 8, sympos 16.
        """
        objects = self._elf.section(".init.klp_objects")
        if objects is None:
            raise InputError(f"{self._path}: has .init.klp_funcs, but no .init.klp_objects")
        for obj in self._records(objects, 64):
            module = self._elf.pointer(obj)
            funcs = self._elf.pointer(obj + 8)
            count = self._elf.number(obj + 56, 4)
            if count > _MAX_RECORDS or (count and funcs is None):
                raise InputError(f"{self._path}: is damaged: an object with {count} functions")
            for i in range(count):
                assert funcs is not None
                func = funcs + 24 * i
                yield self._function(module, self._elf.pointer(func), func + 16)

    # ---- kpatch-build

    def _of_kpatch_build(self) -> Iterator[PlannedFunction]:
        """Follow patch_init() in kmod/patch/livepatch-patch-hook.c of kpatch.

        struct kpatch_patch_func has three pointers: new_addr, name, objname, in this order. Between the first
        two are numbers; since 2016 the last of these is sympos. The hook puts objects and
        functions at the head of its lists, so their order is reversed.
        """
        section = self._elf.section(".kpatch.funcs")
        assert section is not None
        offsets = [relocation.offset for relocation in self._elf.relocations(section)]
        size = len(self._elf.contents(section))
        if not offsets or len(offsets) % 3 or size % (len(offsets) // 3):
            raise InputError(f"{self._path}: .kpatch.funcs has an unknown form")
        record_bytes = size // (len(offsets) // 3)
        name, objname = offsets[1], offsets[2]
        has_sympos = name == 5 * _WORD_BYTES
        if (
            offsets[0] != 0
            or objname != name + _WORD_BYTES
            or name not in (32, 40)
            or record_bytes < objname + _WORD_BYTES
        ):
            raise InputError(f"{self._path}: .kpatch.funcs has an unknown form")
        found: dict[Optional[str], list[PlannedFunction]] = {}
        for record in self._records(section, record_bytes):
            func = self._function(
                self._elf.pointer(record + objname),
                self._elf.pointer(record + name),
                record + (name - _WORD_BYTES) if has_sympos else None,
            )
            found.setdefault(func.module, []).append(func)
        for module in reversed(found):
            yield from reversed(found[module])

    # ---- by hand

    def _by_hand(self) -> tuple[list[PlannedFunction], bool]:
        with probing(self._prog):
            patch, obj, func = (
                self._prog.type(f"struct klp_{name}") for name in ("patch", "object", "func")
            )
            replace_at = offsetof(patch, "replace")
            objs_at = offsetof(patch, "objs")
            object_bytes, function_bytes = sizeof(obj), sizeof(func)
            at = {
                name: offsetof(type_, name)
                for type_, name in (
                    (obj, "name"),
                    (obj, "funcs"),
                    (func, "old_name"),
                    (func, "new_func"),
                    (func, "old_sympos"),
                )
            }
        start = self._argument_of_enable()
        objects = self._elf.pointer(start + objs_at)
        if objects is None:
            raise InputError(
                f"{self._path}: sets its functions at run time: name them with --function"
            )
        found = []
        for i in range(_MAX_RECORDS):
            place = objects + i * object_bytes
            name, funcs = (self._elf.pointer(place + at[member]) for member in ("name", "funcs"))
            if funcs is None:
                break
            for j in range(_MAX_RECORDS):
                record = funcs + j * function_bytes
                old_name = self._elf.pointer(record + at["old_name"])
                if old_name is None:
                    break
                found.append(self._function(name, old_name, record + at["old_sympos"]))
        return found, bool(self._elf.number(start + replace_at, 1))

    def _argument_of_enable(self) -> Place:
        """Return the place of the ``struct klp_patch`` that the module passes to klp_enable_patch()."""
        enable = self._elf.symbols_named("klp_enable_patch")
        for number, section in enumerate(self._elf.sections):
            if not section.is_code:
                continue
            before: Optional[Place] = None
            for relocation in self._elf.relocations(number):
                if relocation.symbol in enable and before is not None:
                    return before
                target = relocation.target
                if target is not None and not self._elf.sections[target.section].is_code:
                    before = target
        raise InputError(
            f"{self._path}: its call of klp_enable_patch() cannot be found: name the functions with"
            " --function"
        )

    # ---- records

    def _records(self, section: int, record_bytes: int) -> Iterator[Place]:
        size = len(self._elf.contents(section))
        if size % record_bytes or size // record_bytes > _MAX_RECORDS:
            raise InputError(
                f"{self._path}: {self._elf.sections[section].name} has {size} bytes, which is not"
                f" a valid number of records of {record_bytes} bytes"
            )
        return (Place(section, at) for at in range(0, size, record_bytes))

    def _function(
        self, module: Optional[Place], name: Optional[Place], sympos: Optional[Place]
    ) -> PlannedFunction:
        if name is None:
            raise InputError(f"{self._path}: is damaged: a function without a name")
        self._left -= 1
        if self._left < 0:
            # Objects may share their functions, so a small file can have any number of them.
            raise InputError(f"{self._path}: replaces more than {_MAX_RECORDS} functions")
        module_name = None if module is None else self._elf.text(module)
        return PlannedFunction(
            self._elf.text(name),
            None if module_name == "vmlinux" else module_name,
            0 if sympos is None else self._elf.number(sympos, _WORD_BYTES),
        )
