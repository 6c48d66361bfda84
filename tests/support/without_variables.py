# SPDX-License-Identifier: LGPL-2.1-or-later
"""A dump as from a kernel built with pahole before v1.22: its BTF has no variables."""

from __future__ import annotations

import struct

import drgn

from drgn_tools.debuginfo.btf import Btf, Kind
from drgn_tools.debuginfo.find_btf import read_btf
from drgn_tools.debuginfo.kallsyms import kallsyms_of
from drgn_tools.program.builtin_types import use_builtin_types

from .overlay import overlay


def without_variables(core: str) -> drgn.Program:
    """Return the program of a core with types from its BTF, in which the names of variables are removed."""
    prog = drgn.Program()
    prog.set_core_dump(core)
    kallsyms = kallsyms_of(prog)
    assert kallsyms is not None
    data = bytearray(read_btf(prog, kallsyms))
    btf = Btf(bytes(data))
    header_bytes, types_offset = struct.unpack_from("<II", data, 4)
    variables = list(btf.ids(Kind.VAR))
    assert len(variables) > 100
    for type_id in variables:
        struct.pack_into("<I", data, header_bytes + types_offset + 4 * btf._record(type_id)[1], 0)
    (start,) = kallsyms.find("__start_BTF")
    overlay(prog, start, bytes(data))
    use_builtin_types(prog)
    return prog
