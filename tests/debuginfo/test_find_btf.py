# SPDX-License-Identifier: LGPL-2.1-or-later
"""BTF found in a kernel image that has no symbols for it, on drawn memory."""

from __future__ import annotations

from pathlib import Path

import drgn
import pytest
from drgn import Program

from drgn_tools.debuginfo import find_btf, kallsyms
from drgn_tools.debuginfo.find_btf import read_btf
from drgn_tools.debuginfo.kallsyms import Kallsyms, kallsyms_of
from drgn_tools.errors import TypesError
from drgn_tools.memory import read_up_to

from ..support.btf_encoder import BtfEncoder
from ..support.drawn_kernel import PAGE_BYTES, DrawnKernel
from .test_kallsyms import table


def encoded(struct: str) -> bytes:
    encoder = BtfEncoder()
    encoder.compound(struct, 8, [])
    return encoder.encode()


BTF = encoded("task_struct")


@pytest.fixture
def kernel() -> DrawnKernel:
    k = DrawnKernel()
    k.constant("VMCOREINFO", f"SYMBOL(_stext)={k.base:x}\n".encode(), "char [64]")
    return k


def found(kernel: DrawnKernel) -> bytes:
    # As with CONFIG_KALLSYMS_ALL=n: functions only, nothing around BTF, no _end.
    return read_btf(kernel.prog, table([("T_stext", kernel.base)]))


def exclude(kernel: DrawnKernel, addr: int, size: int) -> None:
    def read(address: int, count: int, offset: int, physical: bool) -> bytes:
        raise drgn.FaultError("excluded from the dump", address)

    kernel.prog.add_memory_segment(addr, size, read)


@pytest.mark.parametrize("place", [0, 1, 2 * PAGE_BYTES - 8, 4 * PAGE_BYTES - 1, 100_000])
def test_btf_is_found_wherever_it_lies(
    kernel: DrawnKernel, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    monkeypatch.setattr(find_btf, "_CHUNK_BYTES", 2 * PAGE_BYTES)  # it may lie across two
    kernel.put(kernel.base + place, BTF)
    assert found(kernel) == BTF


def test_only_that_of_the_image_has_a_task_in_it(kernel: DrawnKernel) -> None:
    kernel.put(kernel.base + 0x100, encoded("of_a_module_with_a_long_name"))
    kernel.put(kernel.base + 0x1000, BTF)
    assert found(kernel) == BTF


def test_pages_that_are_missing_before_it_are_no_matter(kernel: DrawnKernel) -> None:
    for page in (0, 3, 4, 5, 9):
        exclude(kernel, kernel.base + page * PAGE_BYTES, PAGE_BYTES)
    kernel.put(kernel.base + 10 * PAGE_BYTES, BTF)
    assert found(kernel) == BTF


def test_search_ends_soon_after_memory_does(
    kernel: DrawnKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = []

    def read(prog: drgn.Program, address: int, size: int) -> bytes:
        reads.append(size)
        return read_up_to(prog, address, size)

    monkeypatch.setattr(find_btf, "read_up_to", read)
    with pytest.raises(TypesError, match="has no BTF"):
        found(kernel)
    assert len(reads) < 20_000
    assert len([size for size in reads if size > 1]) < 5


@pytest.mark.parametrize("has_variables", [False, True])
def test_whether_there_is_none_is_known_only_of_a_whole_image(
    kernel: DrawnKernel, monkeypatch: pytest.MonkeyPatch, has_variables: bool
) -> None:
    exclude(kernel, kernel.base + 3 * PAGE_BYTES, PAGE_BYTES)
    if has_variables:  # then a symbol of BTF would be there as well
        monkeypatch.setattr(kallsyms, "_VARIABLES", ("_stext",))
    with pytest.raises(TypesError, match="this kernel has no BTF") as caught:
        found(kernel)
    missing = f"or it is not in the dump (memory at {kernel.base + 3 * PAGE_BYTES:#x} is missing)"
    assert (missing in str(caught.value)) is not has_variables


def test_of_a_running_kernel_nothing_is_missing_from_a_dump(
    kernel: DrawnKernel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Debian's x86-32: kallsyms have functions only, so the search goes on to the end of low memory.
    exclude(kernel, kernel.base + 3 * PAGE_BYTES, PAGE_BYTES)
    monkeypatch.setattr(find_btf, "_is_running_kernel", lambda prog: True)
    monkeypatch.setattr(find_btf, "_SYS_KERNEL_BTF", str(tmp_path / "vmlinux"))
    with pytest.raises(TypesError) as caught:
        found(kernel)
    assert str(caught.value) == (
        f"this kernel has no BTF (CONFIG_DEBUG_INFO_BTF=n): there is no {tmp_path / 'vmlinux'}, and none in"
        " its memory; give the vmlinux of this kernel with -s"
    )


def test_one_that_is_not_whole_is_not_called_none(kernel: DrawnKernel) -> None:
    kernel.put(kernel.base + 3 * PAGE_BYTES - 30, BTF)
    exclude(kernel, kernel.base + 3 * PAGE_BYTES, PAGE_BYTES)
    with pytest.raises(TypesError, match=r"or its BTF is at 0x[0-9a-f]* and is damaged"):
        found(kernel)


class _NoBtfSymbols:
    # A symbol table that has lost the two symbols around BTF.
    def __init__(self, kallsyms: Kallsyms) -> None:
        self._kallsyms = kallsyms

    def find(self, name: str, types: str = "") -> list[int]:
        return [] if "BTF" in name else self._kallsyms.find(name, types)


def test_btf_is_found_by_its_header(demo_program: Program) -> None:
    kallsyms = kallsyms_of(demo_program)
    assert kallsyms is not None
    (start,), (stop,) = kallsyms.find("__start_BTF"), kallsyms.find("__stop_BTF")
    expected = demo_program.read(start, stop - start)
    assert read_btf(demo_program, _NoBtfSymbols(kallsyms)) == expected  # type: ignore[arg-type]
