# SPDX-License-Identifier: LGPL-2.1-or-later
"""The lab's crashes, formats and sources of other suites, as far as they need no machine."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

from ..lab import apt, cli, dump, formats, sources
from ..lab.crash import borders_of, faults_of_crash, traces_of
from ..lab.dump import _NMI_WANTED, _SAVED, Dump, _last_words
from ..lab.errors import LabError
from ..lab.kernel import CRASH_SOURCES, Kernel
from ..lab.qemu import qemu_command
from ..lab.variants import (
    GROUPS,
    MAKEDUMPFILE_FORMATS,
    QEMU_FORMATS,
    VARIANTS,
    BuiltKernel,
    Crash,
    StockKernel,
    Variant,
    kernel_name,
    variant_named,
    variants_of,
)


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DRGN_TOOLS_LAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("DRGN_TOOLS_LAB_MAKEDUMPFILE", raising=False)


_SAID = """\
[    2.1] LAB-NMI
[    2.4] Kernel panic - not syncing: NMI: Not continuing
[    2.4] CPU: 0 UID: 0 PID: 38 Comm: lab-crasher Tainted: G           O       6.12.117 #1
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
[    2.4] CPU: 1 UID: 0 PID: 39 Comm: y Tainted: G           O       6.12.117 #1
[    2.4] RIP: 0010:y+0x20/0x22
[    2.5] Call Trace:
[    2.5]  <TASK>
[    2.5]  </TASK>
[    2.6] ---[ end Kernel panic - not syncing: NMI: Not continuing ]---
"""
_OOPS = _SAID.replace("[    2.4] Call", "[    2.4] RIP: 0010:0x0\n[    2.4] Call", 1)


def test_a_trace_from_registers_is_that_of_the_oops() -> None:
    assert list(traces_of(_SAID)) == ["panic"]
    assert list(traces_of(_OOPS)) == ["oops"]
    assert list(traces_of(_OOPS + _SAID)) == ["oops", "panic"]
    assert traces_of(_SAID.replace("lab-crasher", "x")) == {}


def test_borders_of_the_trace_meant() -> None:
    assert borders_of(traces_of(_SAID)["panic"]) == ["NMI", "IRQ", "TASK"]
    assert borders_of(traces_of(_SAID.replace("\n", "\r\n"))["panic"]) == ["NMI", "IRQ", "TASK"]


def test_a_trace_with_no_end_is_no_answer() -> None:
    assert borders_of(traces_of(_SAID[: _SAID.index(" </TASK>")])["panic"]) is None
    assert borders_of(traces_of(_SAID.replace(" </IRQ>", " </IR"))["panic"]) is None


def test_faults_name_what_is_wrong() -> None:
    nmi = Crash("nmi-irq", None, "NMI IRQ TASK")
    both = Crash("bug", "NMI TASK", "NMI IRQ TASK")
    assert faults_of_crash(nmi, _SAID) == []
    assert faults_of_crash(nmi, _OOPS) == [
        "there is a call trace of the oops",
        "there is no call trace of the panic",
    ]
    assert faults_of_crash(both, _OOPS + _SAID) == [
        "the call trace of the oops goes through NMI IRQ TASK, not NMI TASK"
    ]
    assert faults_of_crash(nmi, _SAID.replace(" </IRQ>", " </IR")) == [
        "the call trace of the panic has a stack with no end"
    ]


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_the_host_knows_what_the_guest_waits_for(line_end: str) -> None:
    said = _SAID.replace("\n", line_end)
    dead = _last_words(Crash("nmi-irq", None, "NMI IRQ TASK"), kdump=False)
    assert _NMI_WANTED.search(said)
    assert dead.search(said)
    assert not dead.search(_SAID[: _SAID.index("[    2.6]")])
    assert not _SAVED.search(said)
    assert _SAVED.search(f"[    6.2] LAB-VMCORE 250617856{line_end}")
    assert _last_words(Crash("bug", "TASK", None), kdump=True) == _SAVED


def test_the_log_of_a_kernel_that_a_crash_kernel_dumped_is_in_the_dump(tmp_path: Path) -> None:
    made = Dump(tmp_path)
    assert made.said == made.log
    made.dmesg.write_text(_SAID)
    assert made.said == made.dmesg


def test_every_crash_is_one_the_module_knows() -> None:
    source = "".join(path.read_text() for path in CRASH_SOURCES if path.suffix == ".c")
    crashes = [variant for variant in VARIANTS if variant.crash]
    assert len(crashes) > 20
    for variant in crashes:
        assert variant.crash
        assert re.fullmatch("crashes(-(years|stock|i386|arm64))?", variant.group)
        assert variant.name.startswith(f"crash-{variant.crash.name}")
        assert variant.crash.oops is not None or variant.crash.panic is not None
        assert variant.crash.name == "sysrq" or f'{{ "{variant.crash.name}", ' in source


def test_groups() -> None:
    assert [variant.name for variant in variants_of("core")] == ["fp-lsb", "fp-v3", "debian"]
    assert sum(len(variants_of(group)) for group in GROUPS) == len(VARIANTS)
    chosen = cli._chosen(cli._parser().parse_args(["dump", "--all"]))
    assert [variant.name for variant in chosen] == ["fp-lsb", "fp-v3", "debian"]
    words = ["dump", "--group", "formats", "--group", "core"]
    chosen = cli._chosen(cli._parser().parse_args(words))
    assert [variant.name for variant in chosen] == ["formats", "kdump", "fp-lsb", "fp-v3", "debian"]


def test_what_cannot_be_made_does_not_stop_the_rest(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def make(variant: Variant, **_: object) -> Dump:
        if variant.name == "formats":
            raise LabError("no luck")
        (tmp_path / "core.json").write_text('{"skipped": []}')
        return Dump(tmp_path)

    monkeypatch.setattr(dump, "make_dump", make)
    assert cli.main(["dump", "formats", "kdump"]) == 1
    said = capsys.readouterr()
    assert said.out == f"{tmp_path / 'core'}\n"
    assert said.err.splitlines() == [
        "lab: error: formats: no luck",
        "lab: error: not made: formats (1 of 2)",
    ]


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
        if variant.kernel.suite:
            folder = apt.apt_configuration(variant.kernel.suite).parent
            listed = (folder / "sources.list").read_text()
            assert listed.count("signed-by=") == len(listed.splitlines()) > 0
            suite, _, machine = variant.kernel.suite.partition("-")
            assert f" {suite} main\n" in listed
            text = (folder / "apt.conf").read_text()
            assert f'APT::Architecture "{machine or "amd64"}"' in text
            if isinstance(variant.kernel, StockKernel):
                names = {"": "x86_64", "i386": "i386", "arm64": "aarch64"}
                assert variant.kernel.arch == names[machine]
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
    formats._copy_with_headers_in_a_row(core, copy, "x86_64")
    data = copy.read_bytes()
    assert data[64:176] == programs
    assert data[176:] == core.read_bytes()[176:]
    assert struct.unpack_from("<QQ", data, 32) == (64, 0)
    assert struct.unpack_from("<6H", data, 52) == (64, 56, 2, 0, 0, 0)


def test_program_headers_of_x86_32_are_as_vmcore_has_them() -> None:
    note = struct.pack("<2I6Q", 4, 0, 400, 0, 0, 100, 100, 0)
    memory = struct.pack("<2I6Q", 1, 0, 500, 0, 0x100000, 4096, 4096, 0)
    rom = struct.pack("<2I6Q", 1, 0, 4596, 0, 0xFFFC0000, 0x40000, 0x40000, 0)
    mapped = struct.pack("<2I6Q", 1, 0, 500, 0xC0100000, 0x100000, 4096, 4096, 0)
    assert list(formats._as_of_vmcore_32(note + memory + rom)) == [note, mapped]


def test_formats_are_known() -> None:
    for variant in VARIANTS:
        assert set(variant.formats) <= {*QEMU_FORMATS, *MAKEDUMPFILE_FORMATS}
    assert set(formats._OPTIONS) == set(MAKEDUMPFILE_FORMATS)


def test_a_makedumpfile_says_what_it_cannot() -> None:
    said = "makedumpfile: version 1.7.8\nlzo\tenabled\nsnappy\tdisabled\nzstd\tenabled\n\n"
    assert formats._unsupported(said) == {"snappy"}
    assert formats.program_of_formats(QEMU_FORMATS, "x86_64") == ""
    assert formats.program_of_formats(["zlib"], "x86_64") == ""  # not fetched


def test_a_makedumpfile_of_ones_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    own = tmp_path / "makedumpfile"
    own.write_text("#!/bin/sh\nprintf 'version 2\\nsnappy\\tenabled\\n'\n")
    own.chmod(0o755)
    monkeypatch.setenv("DRGN_TOOLS_LAB_MAKEDUMPFILE", str(own))
    assert formats.program_of_formats(["zlib"], "x86_64") == "version 2 snappy enabled"
    assert formats.program_of_formats(["zlib"], "i386") == ""
    assert formats.get_makedumpfile("x86_64") == own
