# SPDX-License-Identifier: LGPL-2.1-or-later
"""VMCOREINFO that is not of the memory that it comes with: said in one line, and the right one found."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Optional

import drgn
import pytest

from drgn_tools import DrgnToolsError, audit_kernel, open_program
from drgn_tools.debuginfo.vmcoreinfo import vmcoreinfo, vmcoreinfo_lines
from drgn_tools.errors import EXIT_INPUT, EXIT_USAGE, TypesError
from drgn_tools.program import find_vmcoreinfo
from drgn_tools.program.builtin_types import use_builtin_types
from drgn_tools.program.elf import ET_EXEC, PT_LOAD, PT_NOTE, read_elf
from drgn_tools.program.find_vmcoreinfo import vmcoreinfo_in_memory

from ..conftest import lab_file
from ..support import kdump as kdump_writer
from ..support.elf_writer import elf_file, note
from ..support.kdump import flatten, write_kdump
from ..support.vmcore_layout import write_vmcore_layout

SHIFT = 0x500_0000


@pytest.fixture(scope="module")
def text(demo_core: str) -> str:
    return vmcoreinfo_of(demo_core)


def vmcoreinfo_of(core: str) -> str:
    """The text in a dump, by drgn."""
    prog = drgn.Program()
    prog.set_core_dump(core)
    return str(prog["VMCOREINFO"].string_().decode())


def of_another_boot(text: str) -> str:
    """KASLR put the kernel elsewhere."""

    def moved(match: re.Match[str]) -> str:
        return f"{match[1]}{int(match[2], 16) - SHIFT:x}"

    text = re.sub(r"(SYMBOL\(\w+\)=)(ffffffff\w+)", moved, text)
    text = re.sub(r"(KERNELOFFSET=)(\w+)", moved, text)
    return replaced(text, "NUMBER(phys_base)", str(phys_base(text) + SHIFT * 3))


def phys_base(text: str) -> int:
    return int(vmcoreinfo_lines(text.encode())["NUMBER(phys_base)"])


def replaced(text: str, key: str, value: Optional[str]) -> str:
    """The text with another value of a key, or without that line."""
    lines = (line for line in text.splitlines(True) if not line.startswith(f"{key}="))
    return "".join(lines) + ("" if value is None else f"{key}={value}\n")


WRONG = {
    "phys_base off by 2 MiB": lambda text: replaced(
        text, "NUMBER(phys_base)", str(phys_base(text) + (1 << 21))
    ),
    "no phys_base": lambda text: replaced(text, "NUMBER(phys_base)", None),
    "another boot": of_another_boot,
    "another kernel": lambda text: replaced(of_another_boot(text), "OSRELEASE", "4.18\x1b[m"),
    "cut short": lambda text: text[: len(text) // 2],
}


@pytest.fixture(params=WRONG)
def wrong(request: pytest.FixtureRequest, text: str) -> str:
    return WRONG[request.param](text)


def core_with(demo_core: str, out: Path, text: Optional[str], kept_in_memory: bool = True) -> Path:
    """A copy of an ELF core with another VMCOREINFO, or without; the memory may lose its own, too."""
    shutil.copyfile(demo_core, out)
    with open(out, "r+b") as file:
        elf = read_elf(file)
        assert elf is not None
        (segment,) = (s for s in elf.segments if s.type == PT_NOTE)
        file.seek(segment.offset)
        notes = file.read(segment.file_bytes)
        at = notes.index(b"VMCOREINFO\0")
        size = int.from_bytes(notes[at - 8 : at - 4], "little")
        begin = at + 12
        if text is None:
            notes = notes.replace(b"VMCOREINFO\0", b"NOTHING___\0")
        else:
            new = text.encode()
            assert len(new) <= size
            notes = notes[:begin] + new.ljust(size, b"\0") + notes[begin + size :]
        file.seek(segment.offset)
        file.write(notes)
        if not kept_in_memory:
            for load in (s for s in elf.segments if s.type == PT_LOAD):
                file.seek(load.offset)
                memory = file.read(load.file_bytes).replace(b"OSRELEASE=", b"OSRELEASX=")
                file.seek(load.offset)
                file.write(memory)
    return out


def refusal(**arguments: object) -> tuple[int, str]:
    with pytest.raises(DrgnToolsError) as raised:
        open_program(**arguments)  # type: ignore[arg-type]
    message = str(raised.value)
    assert message.isprintable()
    assert len(message) < 500  # with two paths of a temporary folder in it
    return raised.value.exit_code, message


@pytest.fixture(autouse=True)
def _nothing_else_on_stderr(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    yield
    assert capfd.readouterr() == ("", "")


# ---- what is said


def test_what_was_looked_for_and_where(demo_core: str, wrong: str, tmp_path: Path) -> None:
    core = core_with(demo_core, tmp_path / "vmcore", wrong)
    lines = vmcoreinfo_lines(wrong.encode())
    code, message = refusal(core=core)
    assert code == EXIT_INPUT
    release = lines["OSRELEASE"]
    release = release if release.isprintable() else repr(release)
    start = (
        f"init_uts_ns with release {release} should be at 0x{lines['SYMBOL(init_uts_ns)']}, but "
    )
    # Of another boot, that place may be one that this machine does not have.
    assert re.match(
        re.escape(f"{core}: its VMCOREINFO does not fit its memory")
        + "(, or the kernel is not in the dump)?: "
        + re.escape(start),
        message,
    )
    assert message.endswith(
        "; search its memory for one with --vmcoreinfo auto, or give one with --vmcoreinfo FILE"
    )
    lacks = "NUMBER(phys_base)" not in lines
    assert ("(NUMBER(phys_base) is missing in it)" in message) is lacks
    # The same with a vmlinux: it cannot help.
    vmlinux = tmp_path / "vmlinux"
    build_id = bytes.fromhex(lines["BUILD-ID"])
    vmlinux.write_bytes(
        elf_file(ET_EXEC, 62, [(PT_NOTE, note("GNU", 3, build_id)), (PT_LOAD, b"")])
    )
    assert refusal(core=core, symbols=[vmlinux]) == (code, message)


@pytest.mark.lab
def test_a_vmlinux_with_dwarf_does_not_help(tmp_path: Path) -> None:
    core, vmlinux = str(lab_file("fp-lsb.core")), lab_file("fp-lsb.vmlinux")
    prog = drgn.Program()
    prog.set_core_dump(core)
    path = tmp_path / "vmcoreinfo"
    path.write_text(of_another_boot(prog["VMCOREINFO"].string_().decode()))
    code, message = refusal(core=core, vmcoreinfo=path, symbols=[vmlinux])
    assert code == EXIT_INPUT
    assert f"VMCOREINFO of {path} does not fit its memory" in message


def test_a_file_is_named(demo_core: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / "vmcoreinfo"
    path.write_text(of_another_boot(text))
    code, message = refusal(core=demo_core, vmcoreinfo=path)
    assert code == EXIT_INPUT
    assert message.startswith(f"{demo_core}: VMCOREINFO of {path} does not fit its memory")
    assert message.endswith("; leave it out: the dump's own VMCOREINFO fits")
    core = core_with(demo_core, tmp_path / "vmcore", None)
    assert "; search its memory for one with " in refusal(core=core, vmcoreinfo=path)[1]


def test_other_bytes_are_not_called_missing(demo_core: str, text: str, tmp_path: Path) -> None:
    lines = vmcoreinfo_lines(text.encode())
    elsewhere = replaced(text, "SYMBOL(init_uts_ns)", lines["SYMBOL(_stext)"])
    for part in ("names", "num_syms", "token_table", "token_index", "offsets"):
        elsewhere = replaced(elsewhere, f"SYMBOL(kallsyms_{part})", lines["SYMBOL(_stext)"])
    path = tmp_path / "vmcoreinfo"
    path.write_text(elsewhere)
    code, message = refusal(core=demo_core, vmcoreinfo=path)
    assert code == EXIT_INPUT
    assert "but something else is there; " in message


def test_a_release_that_was_written_over_does_no_harm(
    demo_core: str, text: str, tmp_path: Path
) -> None:
    path = tmp_path / "vmcoreinfo"
    path.write_text(replaced(text, "OSRELEASE", "5.4.0-livepatched"))
    assert audit_kernel(open_program(core=demo_core, vmcoreinfo=path)).tasks


def test_a_dump_that_ends_before_the_kernel_is_called_cut_short(
    demo_core: str, tmp_path: Path
) -> None:
    path = tmp_path / "vmcore"
    shutil.copyfile(demo_core, path)
    os.truncate(path, 1 << 21)
    vmlinux = tmp_path / "vmlinux"
    vmlinux.write_bytes(elf_file(ET_EXEC, 62, [(PT_LOAD, b"")]))
    for symbols in ([], [vmlinux]):
        code, message = refusal(core=path, symbols=symbols)
        assert code == EXIT_INPUT
        assert "the file is cut short" in message
        assert "--vmcoreinfo" not in message


# ---- the right one is found


def test_auto_finds_the_right_one(demo_core: str, wrong: str, tmp_path: Path) -> None:
    core = core_with(demo_core, tmp_path / "vmcore", wrong)
    assert_same(core, demo_core)


def assert_same(core: Path, demo_core: str) -> None:
    prog = open_program(core=core, vmcoreinfo="auto")
    expected = open_program(core=demo_core)
    assert vmcoreinfo(prog) == vmcoreinfo(expected)
    assert prog.type("char").is_signed == expected.type("char").is_signed
    assert audit_kernel(prog).tasks == audit_kernel(expected).tasks


def test_auto_where_there_is_none(
    demo_core: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = core_with(demo_core, tmp_path / "vmcore", None)
    assert "has no VMCOREINFO" in refusal(core=core)[1]
    assert_same(core, demo_core)
    monkeypatch.setattr(kdump_writer, "_notes", lambda core: b"")
    kdump, flat = tmp_path / "kdump", tmp_path / "flat"
    write_kdump(demo_core, kdump)
    assert "has no VMCOREINFO" in refusal(core=kdump)[1]
    flatten(kdump, flat)
    assert "has no VMCOREINFO" in refusal(core=flat)[1]
    expected = [t for t in audit_kernel(open_program(core=demo_core)).tasks if not t.on_cpu]
    for path in (kdump, flat):
        audit = audit_kernel(open_program(core=path, vmcoreinfo="auto"))
        assert [t for t in audit.tasks if not t.on_cpu] == expected
        assert {t.why for t in audit.tasks if t.on_cpu} == {
            f"running on CPU {cpu}; the dump does not have its registers" for cpu in (0, 1)
        }


def test_auto_with_the_layout_of_proc_vmcore(
    demo_core: str, demo_program: drgn.Program, text: str, tmp_path: Path
) -> None:
    # The kernel image has its virtual addresses in the file. With a wrong phys_base it can be read,
    # but no stack.
    whole = tmp_path / "whole"
    write_vmcore_layout(Path(demo_core), whole, demo_program)
    expected = [t.frames for t in audit_kernel(demo_program).tasks if not t.on_cpu]
    for name, make in WRONG.items():
        core = core_with(str(whole), tmp_path / "vmcore", make(text))
        audit = audit_kernel(open_program(core=core, vmcoreinfo="auto"))
        assert [t.frames for t in audit.tasks if not t.on_cpu] == expected
        code, message = refusal(core=core)
        assert code == EXIT_INPUT
        assert "its VMCOREINFO does not fit its memory" in message
        elsewhere = name in ("another boot", "another kernel")
        what = (
            "init_uts_ns with" if elsewhere else "swapper_pg_dir should be at the physical address"
        )
        assert what in message


def test_auto_takes_the_dumps_own_if_that_fits(
    demo_core: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(find_vmcoreinfo, "vmcoreinfo_in_memory", None)  # it is not called
    assert_same(Path(demo_core), demo_core)


def test_copies_of_earlier_boots_are_passed_over(
    demo_core: str, demo_program: drgn.Program, text: str, tmp_path: Path
) -> None:
    core = core_with(demo_core, tmp_path / "vmcore", None)
    stale = of_another_boot(text).encode() + b"CRASHTIME=1\n"
    same_place = text.encode() + b"CRASHTIME=2\n"  # without KASLR: it fits, but is old
    with open(core, "r+b") as file:
        elf = read_elf(file)
        assert elf is not None
        load = next(s for s in elf.segments if s.type == PT_LOAD)
        for at, copy in ((0x1000, stale), (0x3000, same_place)):
            file.seek(load.offset + at)
            file.write(copy.ljust(4096, b"\0"))
        found = list(vmcoreinfo_in_memory(file, demo_program))
    assert [stale, same_place] == found[:2]
    assert text.encode() in found
    assert_same(core, demo_core)


def test_auto_that_finds_nothing_says_so(demo_core: str, text: str, tmp_path: Path) -> None:
    core = core_with(demo_core, tmp_path / "vmcore", None, kept_in_memory=False)
    code, message = refusal(core=core, vmcoreinfo="auto")
    assert (code, message) == (
        EXIT_INPUT,
        f"{core}: its memory was searched for VMCOREINFO: none found; "
        "give one with --vmcoreinfo FILE",
    )
    with open(core, "r+b") as file:
        elf = read_elf(file)
        assert elf is not None
        file.seek(next(s for s in elf.segments if s.type == PT_LOAD).offset + 0x1000)
        file.write(of_another_boot(text).encode() + b"\0")
    assert "VMCOREINFO: 1 found, none fits; " in refusal(core=core, vmcoreinfo="auto")[1]


@pytest.mark.parametrize("where", [{"kernel": True}, {"qemu": "/nonexistent"}])
def test_auto_is_for_dumps(where: dict[str, object]) -> None:
    assert refusal(vmcoreinfo="auto", **where) == (
        EXIT_USAGE,
        "--vmcoreinfo auto searches a dump: it works only with -c",
    )


# ---- the search


def test_where_a_text_may_lie(
    text: str, demo_program: drgn.Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(find_vmcoreinfo, "_CHUNK_BYTES", 8192)
    path = tmp_path / "vmcore"
    body = text.encode()
    for at in (0, 1, 4095, 8191, 8192 - len(body), 8192 - len(body) - 1, 12288, 20000):
        path.write_bytes(elf_file(4, 62, [(PT_LOAD, bytes(at) + body + b"\0")]))
        with open(path, "rb") as file:
            assert list(vmcoreinfo_in_memory(file, demo_program)) == [body], at


@pytest.mark.parametrize(
    "other",
    [
        b"OSRELEASE=%s\n\0BUILD-ID=%s\n\0",
        b"OSRELEASE=6.12\nPAGESIZE=4096\n\0",
        b"OSRELEASE=6.12\nPAGESIZE=4096\nSYMBOL(_stext)=0",  # no end
        b"OSRELEASE=6.12\nPAGESIZE=4096\nSYMBOL(_stext)=0\n" + b"X=1\n" * 1024 + b"\0",  # too long
        b"OSRELEASE=6.12\nPAGESIZE=4096\n\xffSYMBOL(_stext)=0\n\0",
    ],
)
def test_what_is_no_vmcoreinfo(other: bytes, demo_program: drgn.Program, tmp_path: Path) -> None:
    path = tmp_path / "vmcore"
    path.write_bytes(elf_file(4, 62, [(PT_LOAD, bytes(100) + other)]))
    with open(path, "rb") as file:
        assert list(vmcoreinfo_in_memory(file, demo_program)) == []


def test_the_search_has_an_end(demo_program: drgn.Program, tmp_path: Path) -> None:
    # Many texts; and many segments that are the same bytes.
    texts = b"".join(b"OSRELEASE=%d\nPAGESIZE=4096\nSYMBOL(x)=0\n\0" % i for i in range(3000))
    path = tmp_path / "vmcore"
    path.write_bytes(elf_file(4, 62, [(PT_LOAD, texts)]))
    with open(path, "rb") as file:
        assert len(list(vmcoreinfo_in_memory(file, demo_program))) == 1000


def test_a_program_that_drgn_opened(demo_core: str, text: str) -> None:
    prog = drgn.Program(vmcoreinfo=of_another_boot(text).encode())
    prog.set_core_dump(demo_core)
    with pytest.raises(TypesError, match=r"^VMCOREINFO does not fit this memory.*init_uts_ns with"):
        use_builtin_types(prog)  # as our plugin does
