# SPDX-License-Identifier: LGPL-2.1-or-later
"""The lab's crashes, formats and sources of other suites, as far as they need no machine."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from .lab import apt, cli, formats, sources
from .lab.crash import borders_of, faults_of_crash
from .lab.dump import _DEAD, _NMI_WANTED, _SAVED
from .lab.kernel import CRASH_SOURCES, Kernel
from .lab.qemu import qemu_command
from .lab.variants import (
    GROUPS,
    MAKEDUMPFILE_FORMATS,
    QEMU_FORMATS,
    VARIANTS,
    BuiltKernel,
    Crash,
    kernel_name,
    variant_named,
    variants_of,
)


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DRGN_TOOLS_LAB_CACHE", str(tmp_path / "cache"))


_TRACE = """\
[    2.1] LAB-NMI
[    2.4] Kernel panic - not syncing: NMI: Not continuing
[    2.4] CPU: 0 UID: 0 PID: 38 Comm: x Tainted: G           O       6.12.117 #1
[    2.4] Call Trace:
[    2.4]  <NMI>
[    2.4]  panic+0x108/0x2d0
[    2.4] RIP: 0010:lab_spin+0x20/0x22 [lab_crash]
[    2.4] Code: 90 <f3> 90
[    2.4]  </NMI>
[    2.4]  <IRQ>
[    2.4]  ? ask_for_nmi+0x1e/0x1e [lab_crash]
[    2.4]  </IRQ>
[    2.4]  <TASK>
[    2.4] WARNING: kernel stack regs at 0000000075 in x:38 has bad 'bp' value 00
[    2.4] 0000000028c3a13e: fffffe1757701d48 (0xfffffe1757701d48)
[    2.4]  </TASK>
[    2.5] NMI backtrace for cpu 1
[    2.5] Call Trace:
[    2.5]  <TASK>
[    2.5]  </TASK>
[    2.6] ---[ end Kernel panic - not syncing: NMI: Not continuing ]---
"""


def test_borders_of_the_trace_meant() -> None:
    assert borders_of(_TRACE, "Kernel panic - ") == ["NMI", "IRQ", "TASK"]
    assert borders_of(_TRACE.replace("\n", "\r\n"), "Kernel panic - ") == ["NMI", "IRQ", "TASK"]
    assert borders_of(_TRACE, "NMI backtrace for cpu 1") == ["TASK"]


@pytest.mark.parametrize("begin", ["BUG: ", "---.. end"])
def test_no_trace_is_no_answer(begin: str) -> None:
    assert borders_of(_TRACE, begin) is None


def test_a_stack_that_does_not_end_is_no_answer() -> None:
    assert borders_of(_TRACE.replace(" </IRQ>", " </IR"), "Kernel panic - ") is None
    assert borders_of(_TRACE[: _TRACE.index(" </TASK>")], "Kernel panic - ") is None


def test_faults_name_what_is_wrong() -> None:
    good = Crash("nmi-irq", "NMI IRQ TASK", "Kernel panic - ")
    assert faults_of_crash(good, _TRACE) == []
    other = Crash("nmi", "NMI TASK", "Kernel panic - ")
    assert faults_of_crash(other, _TRACE) == [
        "the call trace goes through NMI IRQ TASK, not NMI TASK"
    ]
    assert faults_of_crash(Crash("bug", "TASK", "kernel BUG"), _TRACE) == [
        "the console has no whole call trace after 'kernel BUG'"
    ]


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_the_host_knows_what_the_guest_waits_for(line_end: str) -> None:
    said = _TRACE.replace("\n", line_end)
    assert _NMI_WANTED.search(said)
    assert _DEAD.search(said)
    assert not _SAVED.search(said)
    assert _SAVED.search(f"[    6.2] LAB-VMCORE 250617856{line_end}")


def test_every_crash_is_one_the_module_knows() -> None:
    source = "".join(path.read_text() for path in CRASH_SOURCES if path.suffix == ".c")
    crashes = [variant for variant in VARIANTS if variant.crash]
    assert len(crashes) > 20
    for variant in crashes:
        assert variant.crash
        assert variant.group in ("crashes", "crashes-years")
        assert variant.name.startswith(f"crash-{variant.crash.name}")
        assert variant.crash.name == "sysrq" or f'{{ "{variant.crash.name}", ' in source


def test_groups() -> None:
    assert [variant.name for variant in variants_of("core")] == ["fp-lsb", "fp-v3", "debian"]
    assert sum(len(variants_of(group)) for group in GROUPS) == len(VARIANTS)
    chosen = cli._chosen(cli._parser().parse_args(["dump", "--all"]))
    assert [variant.name for variant in chosen] == ["fp-lsb", "fp-v3", "debian"]
    chosen = cli._chosen(cli._parser().parse_args(["dump", "--group", "formats"]))
    assert [variant.name for variant in chosen] == ["formats", "kdump"]


def test_variants_share_kernels() -> None:
    for name in ("fp-lsb", "fp-nokaslr", "crash-nmi", "kdump"):
        assert kernel_name(variant_named(name).kernel) == "fp-lsb"
    assert kernel_name(variant_named("fp-v3").kernel) == "fp-v3"


def test_a_crashing_machine_stays_as_it_is(tmp_path: Path) -> None:
    kernel = Kernel(tmp_path, tmp_path / "bzImage", (), "x 1")
    command = qemu_command(variant_named("crash-nmi"), kernel, tmp_path / "i.gz", mode="freeze")
    words = command[command.index("-append") + 1].split()
    assert {"panic=0", "oops=panic", "unknown_nmi_panic=1", "lab.crash=nmi"} < set(words)
    assert "panic=-1" not in words


# -------------------------------------------------------------- sources of other suites


def test_an_apt_of_our_own() -> None:
    for variant in VARIANTS:
        if isinstance(variant.kernel, BuiltKernel) and variant.kernel.suite:
            folder = apt.apt_configuration(variant.kernel.suite).parent
            listed = (folder / "sources.list").read_text()
            assert listed.count("signed-by=") == len(listed.splitlines()) > 0
            assert f" {variant.kernel.suite} main\n" in listed
            text = (folder / "apt.conf").read_text()
            assert f'Dir::State::Lists "{folder}/lists"' in text
            assert 'Dir::Etc::SourceParts "/dev/null"' in text


def test_a_source_that_was_not_fetched_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "require", lambda needs, packages=(): None)
    assert sources.find_source(BuiltKernel("linux-source-6.1", (), suite="bookworm")) is None


# --------------------------------------------------------------------- dump formats


def test_program_headers_are_moved_to_where_makedumpfile_looks(tmp_path: Path) -> None:
    programs = bytes(range(112))
    header = bytearray(64)
    struct.pack_into("<QQ", header, 32, 192, 64)
    struct.pack_into("<HHH", header, 52, 8, 56, 2)
    struct.pack_into("<HH", header, 60, 2, 1)
    core, copy = tmp_path / "core", tmp_path / "copy"
    core.write_bytes(bytes(header) + bytes(128) + programs + b"notes and memory")
    formats._copy_with_headers_in_a_row(core, copy)
    data = copy.read_bytes()
    assert data[64:176] == programs
    assert data[176:] == core.read_bytes()[176:]
    assert struct.unpack_from("<QQ", data, 32) == (64, 0)
    assert struct.unpack_from("<6H", data, 52) == (64, 56, 2, 0, 0, 0)


def test_formats_are_known() -> None:
    for variant in VARIANTS:
        assert set(variant.formats) <= {*QEMU_FORMATS, *MAKEDUMPFILE_FORMATS}
    assert set(formats._OPTIONS) == set(MAKEDUMPFILE_FORMATS)


def test_a_makedumpfile_says_what_it_cannot() -> None:
    said = "makedumpfile: version 1.7.8\nlzo\tenabled\nsnappy\tdisabled\nzstd\tenabled\n\n"
    assert formats._unsupported(said) == {"snappy"}
    assert formats.program_of_formats(QEMU_FORMATS) == ""
    assert formats.program_of_formats(["zlib"]) == ""  # not fetched
