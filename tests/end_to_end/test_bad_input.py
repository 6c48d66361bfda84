# SPDX-License-Identifier: LGPL-2.1-or-later
"""What cannot be opened: one clear line and the right exit code each."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import drgn
import pytest

from drgn_tools import DrgnToolsError, InputError, audit_kernel, open_program, task_stacks
from drgn_tools.analysis.audit import audit_under_way
from drgn_tools.debuginfo.kallsyms import kallsyms_of
from drgn_tools.debuginfo.vmcoreinfo import build_id
from drgn_tools.errors import EXIT_INPUT, EXIT_TYPES
from drgn_tools.program.builtin_types import use_builtin_types
from drgn_tools.program.elf import ET_CORE, ET_EXEC, PT_INTERP, PT_LOAD, PT_NOTE
from drgn_tools.program.open import _drgn_opens

from ..conftest import lab_file
from ..debuginfo.test_kallsyms import SHORT, program_with_table
from ..support.elf_writer import elf_file, note
from ..support.kdump import write_kdump

X86_64, RISCV = 62, 243
VMCOREINFO = note("VMCOREINFO", 0, b"OSRELEASE=6.12.0\nPAGESIZE=4096\n")
KCORE_NOTES = note("CORE", 1, bytes(336)) + note("CORE", 3, bytes(136)) + note("CORE", 4, bytes(9))
MEMORY = (PT_LOAD, bytes(4096))


def _pn_xnum(section_headers_at: int) -> bytes:
    """An ELF core whose number of segments is in a section header, and that at such a place."""
    data = bytearray(elf_file(ET_CORE, X86_64, [(PT_NOTE, VMCOREINFO)]))
    struct.pack_into("<Q", data, 40, section_headers_at)
    struct.pack_into("<H", data, 56, 0xFFFF)
    return bytes(data)


PN_XNUM_NOWHERE = _pn_xnum((1 << 63) + 1)


def refusal(**arguments: Any) -> tuple[int, str]:
    """Exit code and message of the error that opening raises."""
    with pytest.raises(DrgnToolsError) as raised:
        open_program(**arguments)
    message = str(raised.value)
    assert "\n" not in message
    assert len(message) < 400
    return raised.value.exit_code, message


@pytest.fixture(autouse=True)
def _nothing_else_on_stderr(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    yield
    assert capfd.readouterr() == ("", "")


# ---- files that are no core


def test_no_such_file(tmp_path: Path) -> None:
    path = tmp_path / "vmcore"
    assert refusal(core=path) == (EXIT_INPUT, f"{path}: no such file")


def test_directory(tmp_path: Path) -> None:
    assert refusal(core=tmp_path) == (
        EXIT_INPUT,
        f"{tmp_path}: is a directory, not a file; give a file in it",
    )


def test_not_a_regular_file(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    listening = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(listening))
    for path, says in (
        (fifo, "is a pipe, not a file; save its output to a file"),
        (listening, "is a socket, not a file; use --qemu for a QEMU guest"),
        (Path(os.devnull), "is a device, not a file; use -k for the running kernel"),
    ):
        assert refusal(core=path) == (EXIT_INPUT, f"{path}: {says}")


def test_a_url() -> None:
    code, message = refusal(core="http://user:secret@host/vmcore?sig=1")
    assert code == EXIT_INPUT
    assert message == (
        "http://host/vmcore: is a URL, not a file; download it (only fleet run takes URLs)"
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_permission_denied(tmp_path: Path) -> None:
    path = tmp_path / "vmcore"
    path.write_bytes(b"secret")
    path.chmod(0)
    code, message = refusal(core=path)
    assert code == EXIT_INPUT
    assert "permission denied" in message


UNREADABLE = "/proc/self/mem"
"""A regular file; at its start reading fails, as of a disk that is broken (EIO)."""


def test_a_file_that_cannot_be_read(demo_core: str) -> None:
    code, message = refusal(core=UNREADABLE)
    assert (code, message) == (EXIT_INPUT, f"{UNREADABLE}: cannot be read: Input/output error")
    for what in ({"vmcoreinfo": UNREADABLE}, {"symbols": [UNREADABLE]}):
        code, message = refusal(core=demo_core, **what)
        assert code == EXIT_INPUT
        assert message.startswith(f"{UNREADABLE}: cannot be read: ")


def test_a_file_that_goes_away_while_it_is_looked_at(
    demo_core: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Between any two of the looks that are taken at it: there is none that is the last.
    path = tmp_path / "vmcore"
    looks, allowed, opened = 0, 0, open

    def open_once_less(*args: Any, **keywords: Any) -> Any:
        nonlocal looks
        looks += args[0] == str(path)
        if looks > allowed:
            path.unlink(missing_ok=True)
        return opened(*args, **keywords)

    monkeypatch.setattr("builtins.open", open_once_less)
    for allowed in range(10):  # noqa: B007  # open_once_less() looks at it
        shutil.copyfile(demo_core, path)
        looks = 0
        try:
            open_program(core=path)
        except DrgnToolsError as e:
            assert (e.exit_code, str(e)) == (EXIT_INPUT, f"{path}: no such file")
        else:
            break
    assert looks == allowed > 1


def test_reading_fails_later_on(demo_core: str) -> None:
    # A dump on another machine, say, whose network is gone: drgn passes on what reading says.
    prog = open_program(core=demo_core)

    def stale(address: int, count: int, offset: int, physical: bool) -> bytes:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    (task,) = (task for task in task_stacks(prog) if task.pid == 1)
    prog.add_memory_segment(task.task, 64, stale)
    for look in (audit_kernel, lambda prog: list(audit_under_way(prog))):
        with pytest.raises(DrgnToolsError) as raised:
            look(prog)
        assert raised.value.exit_code == EXIT_INPUT
        assert str(raised.value) == f"{demo_core}: cannot be read: Stale file handle"


@pytest.mark.parametrize("name", ["", "vm\0core", "vm\ncore", "\x1b[31mvmcore", "\udcff"])
def test_odd_names(name: str) -> None:
    code, message = refusal(core=name)
    assert code == EXIT_INPUT
    assert message.startswith(f"{name!r}: ")
    assert message.isprintable()


@pytest.mark.parametrize(
    ("contents", "says"),
    [
        (b"", "is empty; copy or make the dump again"),
        (b"not a vmcore\n", "is text, not a dump of memory; it begins with 'not a vmcore'"),
        (b"\x1b[2Jred\n", "it begins with '\\x1b[2Jred'"),
        (b"<html>" + b"x" * 99, f"it begins with '<html>{'x' * 34}'"),
        (b"\x7fELV" * 1000, "neither ELF nor kdump"),
        (b"LibvirtQEMUSave\0" + bytes(100), "virsh dump --memory-only"),
        (b"QEVM\0\0\0\x03" + bytes(100), "virsh dump --memory-only"),
        (b"\x7fELF", "its ELF headers are not whole"),
        (b"\x7fELF\x02\x01\x01" + bytes(57), "not a core dump"),
        (b"KDUMP   " + bytes(10_000), "cannot be opened as a vmcore"),
        (b"KDUMP   ", "cut short"),
        (elf_file(ET_EXEC, X86_64, []), "is an ELF executable, not a core dump"),
        (elf_file(3, X86_64, []), "is an ELF executable or library, not a core dump"),
        (
            elf_file(ET_CORE, RISCV, [(PT_NOTE, VMCOREINFO)]),
            "core dump of riscv; only x86_64, i386 and aarch64 are supported",
        ),
        (
            elf_file(ET_CORE, X86_64, [(PT_NOTE, note("CORE", 6, bytes(16)))]),
            "is a core dump of a userspace process, not of a Linux kernel",
        ),
        (
            elf_file(ET_CORE, X86_64, [(PT_NOTE, note("CORE", 1, bytes(336))), MEMORY]),
            "has no VMCOREINFO, which says where things are in the kernel's memory; search its "
            "memory for one with --vmcoreinfo auto, or give one with --vmcoreinfo FILE",
        ),
        (
            elf_file(ET_CORE, X86_64, [(PT_NOTE, note("QEMU", 0, bytes(432))), MEMORY]),
            "QEMU dumps have one if the guest has -device vmcoreinfo",
        ),
        (
            elf_file(ET_CORE, X86_64, [(PT_NOTE, note("Xen", 0x1000001, bytes(80))), MEMORY]),
            "is a dump of the Xen hypervisor, without VMCOREINFO of a Linux kernel",
        ),
        (
            elf_file(ET_CORE, X86_64, [(PT_NOTE, KCORE_NOTES), MEMORY]),  # before v4.19
            "has no VMCOREINFO",
        ),
        (PN_XNUM_NOWHERE, "its ELF headers are not whole"),
        (
            elf_file(ET_CORE, X86_64, [(PT_NOTE, note("VMCOREINFO", 0, b"nonsense")), MEMORY]),
            "its VMCOREINFO is cut short or damaged: it lacks OSRELEASE, PAGESIZE, "
            "SYMBOL(swapper_pg_dir); search its memory for one with --vmcoreinfo auto",
        ),
        (
            elf_file(
                ET_CORE,
                X86_64,
                [
                    (
                        PT_NOTE,
                        note(
                            "VMCOREINFO", 0, b"OSRELEASE=6\nPAGESIZE=0\nSYMBOL(swapper_pg_dir)=10\n"
                        ),
                    ),
                    MEMORY,
                ],
            ),
            "cannot be opened as a vmcore: VMCOREINFO does not contain valid PAGESIZE",
        ),
    ],
)
def test_file_of_another_kind(contents: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(contents)
    code, message = refusal(core=path)
    assert code == EXIT_INPUT
    assert message.startswith(f"{path}: ")
    assert says in message


def test_core_of_a_real_process(tmp_path: Path) -> None:
    try:
        sleeper = subprocess.Popen(["sleep", "60"])
        gcore = ["gcore", "-o", str(tmp_path / "core"), str(sleeper.pid)]
        made = subprocess.run(gcore, capture_output=True, check=False)
        sleeper.kill()
        sleeper.wait()
    except FileNotFoundError:
        pytest.skip("needs gcore (of gdb)")
    cores = list(tmp_path.iterdir())
    if not cores:
        pytest.skip(f"gcore made none: {made.stderr.decode()[:200]!r}")
    code, message = refusal(core=cores[0])
    assert code == EXIT_INPUT
    assert "is a core dump of a userspace process" in message


# ---- cut short


@pytest.fixture(scope="module")
def spare_core(demo_core: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the core that a test may cut, from its end on."""
    copy = tmp_path_factory.mktemp("cut") / "vmcore"
    subprocess.run(["cp", "--sparse=always", demo_core, copy], check=True)
    copy.chmod(0o600)
    return copy


def test_truncated_at_ten_places(spare_core: Path) -> None:
    size = spare_core.stat().st_size
    # From the middle of memory down to nothing; higher, a core may well be usable.
    for length in (size // 8, size // 20, 1 << 20, 5000, 4096, 1000, 300, 128, 64, 20):
        os.truncate(spare_core, length)
        code, message = refusal(core=spare_core)
        assert code == EXIT_INPUT, length
        assert message.startswith(f"{spare_core}: ")
        assert "cut short" in message, length


def test_truncated_where_it_may_still_serve(
    demo_core: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copy = tmp_path / "vmcore"
    subprocess.run(["cp", "--sparse=always", demo_core, copy], check=True)
    copy.chmod(0o600)
    size = copy.stat().st_size
    served = 0
    for tenths in range(9, 0, -1):
        os.truncate(copy, size * tenths // 10)
        caplog.clear()
        try:
            open_program(core=copy)
        except DrgnToolsError as e:
            assert e.exit_code == EXIT_INPUT
            assert "the file is cut short" in str(e)
        else:
            served += 1
            assert "the file is cut short" in caplog.text
    assert 0 < served < 9


def test_truncated_kdump(demo_core: str, tmp_path: Path) -> None:
    path = tmp_path / "kdump"
    write_kdump(demo_core, path)
    size = path.stat().st_size
    for length in (size // 8, size // 50, 30_000, 20_000, 12_288, 10_192, 8192, 4096, 464, 100, 8):
        os.truncate(path, length)
        code, message = refusal(core=path)
        assert code == EXIT_INPUT, length
        assert message.startswith(f"{path}: ")


# ---- types and symbols


def test_symbols_that_do_not_exist(demo_core: str, tmp_path: Path) -> None:
    path = tmp_path / "vmlinux"
    assert refusal(core=demo_core, symbols=[path]) == (EXIT_INPUT, f"{path}: no such file")


def test_symbols_are_looked_at_before_the_core(tmp_path: Path) -> None:
    missing = tmp_path / "vmlinux"
    assert refusal(core=tmp_path / "vmcore", symbols=[missing])[1].startswith(f"{missing}: ")


def test_symbols_that_are_no_elf_file(demo_core: str, tmp_path: Path) -> None:
    path = tmp_path / "vmlinuz"
    path.write_bytes(b"MZ compressed kernel")
    code, message = refusal(core=demo_core, symbols=[path])
    assert code == EXIT_TYPES
    assert message.startswith(f"{path}: is not an ELF file")


def test_vmlinux_of_another_kernel(demo_core: str, tmp_path: Path) -> None:
    path = tmp_path / "vmlinux"
    path.write_bytes(elf_file(ET_EXEC, X86_64, [(PT_NOTE, note("GNU", 3, b"\xab" * 20))]))
    code, message = refusal(core=demo_core, symbols=[path])
    assert code == EXIT_TYPES
    expected = build_id(open_program(core=demo_core))
    assert message == (
        f"{demo_core}: kernel build ID {expected} but {path} is {'ab' * 20}; "
        "give the vmlinux of this kernel with -s, or leave -s out to use BTF"
    )


def test_a_program_is_no_vmlinux(demo_core: str, tmp_path: Path) -> None:
    path = tmp_path / "ls"
    interpreter = (PT_INTERP, b"/lib64/ld-linux-x86-64.so.2\0")
    path.write_bytes(elf_file(3, X86_64, [interpreter, (PT_NOTE, note("GNU", 3, b"\xab" * 20))]))
    code, message = refusal(core=demo_core, symbols=[path])
    assert code == EXIT_TYPES
    assert message == (
        f"{path}: is a program or library, not a kernel; "
        "-s takes a vmlinux with debugging information"
    )


def test_vmlinux_without_debugging_information(
    demo_core: str, demo_program: drgn.Program, tmp_path: Path
) -> None:
    path = tmp_path / "vmlinux"
    right = bytes.fromhex(build_id(demo_program) or "")
    path.write_bytes(elf_file(ET_EXEC, X86_64, [(PT_NOTE, note("GNU", 3, right)), (PT_LOAD, b"")]))
    code, message = refusal(core=demo_core, symbols=[path])
    assert code == EXIT_TYPES
    assert message.startswith(f"{path}: has no DWARF debugging information")


def test_each_vmlinux_has_to_be_of_this_kernel(
    demo_core: str, demo_program: drgn.Program, tmp_path: Path
) -> None:
    paths = []
    for build_id_bytes in (bytes.fromhex(build_id(demo_program) or ""), b"\xab" * 20):
        paths.append(tmp_path / f"vmlinux{len(paths)}")
        paths[-1].write_bytes(
            elf_file(ET_EXEC, X86_64, [(PT_NOTE, note("GNU", 3, build_id_bytes)), (PT_LOAD, b"")])
        )
    code, message = refusal(core=demo_core, symbols=paths)
    assert code == EXIT_TYPES
    assert f"but {paths[1]} is {'ab' * 20}; " in message


@pytest.mark.lab
def test_vmlinux_cut_short(tmp_path: Path) -> None:
    core, vmlinux = str(lab_file("fp-lsb.core")), lab_file("fp-lsb.vmlinux")
    path = tmp_path / "vmlinux"
    with open(vmlinux, "rb") as file:
        path.write_bytes(file.read(40 << 20))
    assert refusal(core=core, symbols=[path])[0] == EXIT_TYPES


@pytest.mark.lab
def test_vmlinux_of_the_other_lab_kernel() -> None:
    code, message = refusal(core=lab_file("fp-lsb.core"), symbols=[lab_file("fp-v3.vmlinux")])
    assert code == EXIT_TYPES
    assert "kernel build ID" in message


@pytest.mark.lab
def test_vmlinux_of_another_kernel_where_the_dump_has_no_build_id(tmp_path: Path) -> None:
    # Before v5.9 VMCOREINFO has none. drgn takes any vmlinux then.
    core = str(lab_file("fp-lsb.core"))
    path = tmp_path / "vmcoreinfo"
    prog = drgn.Program()
    prog.set_core_dump(core)
    path.write_bytes(prog["VMCOREINFO"].string_().replace(b"BUILD-ID", b"NO-BUILD-ID"))
    code, message = refusal(core=core, symbols=[lab_file("fp-v3.vmlinux")], vmcoreinfo=path)
    assert code == EXIT_TYPES
    assert "kernel build ID" in message
    assert open_program(core=core, symbols=[lab_file("fp-lsb.vmlinux")], vmcoreinfo=path)


def test_kernel_without_btf() -> None:
    prog, _ = program_with_table(SHORT, "percpu")
    with pytest.raises(DrgnToolsError) as raised:
        use_builtin_types(prog)
    assert raised.value.exit_code == EXIT_TYPES
    assert str(raised.value) == (
        "this kernel has no BTF (CONFIG_DEBUG_INFO_BTF=n); give the vmlinux of this kernel with -s"
    )


def test_kernel_whose_vmcoreinfo_does_not_know_kallsyms(demo_core: str, tmp_path: Path) -> None:
    prog = drgn.Program()
    prog.set_core_dump(demo_core)
    lines = prog["VMCOREINFO"].string_().decode().replace("kallsyms_names", "elsewhere")
    lines = lines.replace("SYMBOL(_stext)", "SYMBOL(elsewhere)")  # nor where to look for them
    path = tmp_path / "vmcoreinfo"
    path.write_text(lines)
    code, message = refusal(core=demo_core, vmcoreinfo=path)
    assert code == EXIT_TYPES
    assert message.startswith(f"{demo_core}: the symbol table ")
    assert "-s" in message


def test_btf_that_is_not_in_the_dump(demo_core: str) -> None:
    prog = drgn.Program()
    prog.set_core_dump(demo_core)
    kallsyms = kallsyms_of(prog)
    assert kallsyms is not None
    (start,) = kallsyms.find("__start_BTF")

    def fault(address: int, count: int, offset: int, physical: bool) -> bytes:
        raise drgn.FaultError("not in the dump", address)

    prog.add_memory_segment(start, 4096, fault)
    with pytest.raises(DrgnToolsError, match="is not in the dump") as raised:
        use_builtin_types(prog)
    assert raised.value.exit_code == EXIT_TYPES


# ---- the rest of the command line


def test_vmcoreinfo_file(demo_core: str, tmp_path: Path) -> None:
    path = tmp_path / "vmcoreinfo"
    assert refusal(core=demo_core, vmcoreinfo=path) == (EXIT_INPUT, f"{path}: no such file")
    path.write_text("nonsense")
    code, message = refusal(core=demo_core, vmcoreinfo=path)
    assert code == EXIT_INPUT
    assert message.startswith(f"{path}: is not VMCOREINFO: ")


@pytest.mark.parametrize(
    ("contents", "what"),
    [(b"", "is empty"), (b" \r\n\n", "is empty"), (bytes(4096), "has only zeros in it")],
)
def test_vmcoreinfo_file_without_any(
    demo_core: str, tmp_path: Path, contents: bytes, what: str
) -> None:
    path = tmp_path / "vmcoreinfo"
    path.write_bytes(contents)
    remedy = "give VMCOREINFO, or leave --vmcoreinfo out"
    assert refusal(core=demo_core, vmcoreinfo=path) == (EXIT_INPUT, f"{path}: {what}; {remedy}")


def test_vmcoreinfo_with_line_ends_of_windows(demo_core: str, tmp_path: Path) -> None:
    prog = drgn.Program()
    prog.set_core_dump(demo_core)
    path = tmp_path / "vmcoreinfo"
    path.write_bytes(prog["VMCOREINFO"].string_().replace(b"\n", b"\r\n"))
    assert build_id(open_program(core=demo_core, vmcoreinfo=path)) == build_id(prog)


@pytest.mark.parametrize(
    "line", ["KERNELOFFSET=9223372036854775807", f"PAGESIZE={'9' * 30}", "PAGESIZE=4k"]
)
def test_numbers_in_vmcoreinfo_that_drgn_refuses(demo_core: str, tmp_path: Path, line: str) -> None:
    prog = drgn.Program()
    prog.set_core_dump(demo_core)
    key = line.partition("=")[0]
    lines = prog["VMCOREINFO"].string_().decode().split("\n")
    path = tmp_path / "vmcoreinfo"
    path.write_text("\n".join(line if text.startswith(f"{key}=") else text for text in lines))
    code, message = refusal(core=demo_core, vmcoreinfo=path)
    assert code == EXIT_INPUT
    assert message.startswith(f"{path}: is not VMCOREINFO: ")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (MemoryError(), "there is too little memory"),
        (OSError(errno.EIO, os.strerror(errno.EIO)), "Input/output error"),
        (OverflowError("a\nb"), "a b"),
        (Exception("libelf error: x"), "libelf error: x"),
    ],
)
def test_what_drgn_says_of_a_file_is_in_one_line(error: Exception, says: str) -> None:
    def refuse() -> None:
        raise error

    with pytest.raises(InputError, match=f"^vmcore: cannot be opened: {says}$") as raised:
        _drgn_opens(refuse, "vmcore: cannot be opened")
    assert raised.value.__cause__ is error


def test_qemu_that_is_a_file(demo_core: str) -> None:
    code, message = refusal(qemu=demo_core)
    assert code == EXIT_INPUT
    assert message.startswith(f"{demo_core}: is not a socket; ")


def test_qemu_that_does_not_listen(tmp_path: Path) -> None:
    path = tmp_path / "qmp.sock"
    code, message = refusal(qemu=str(path))
    assert code == EXIT_INPUT
    assert message == (
        f"{path}: no such socket; QEMU makes one with -qmp unix:PATH,server=on,wait=off"
    )


@pytest.mark.skipif(
    os.access("/proc/kcore", os.R_OK), reason="the running kernel can be read: nothing to refuse"
)
def test_running_kernel_that_cannot_be_read() -> None:
    code, message = refusal(kernel=True)
    assert code == EXIT_INPUT
    assert message.startswith("the running kernel: ")
