# SPDX-License-Identifier: LGPL-2.1-or-later
"""The lab without a machine: command line, cache, child processes, console. Needs neither QEMU nor a compiler."""

from __future__ import annotations

import dataclasses
import errno
import gzip
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from . import apt, cache, cli, kernel, packages, stock_packages
from .dump import Dump
from .errors import LabError
from .initramfs import write_initramfs
from .kernel import Kernel
from .qemu import Machine, qemu_command
from .run import Progress, run
from .sources import Source
from .variants import VARIANTS, BuiltKernel, variant_named

_ROOT = Path(__file__).parents[2]
_COMMANDS = (
    "list",
    "build",
    "boot",
    "dump",
    "path",
    "cached",
    "sheet",
    "demo",
    "packages",
    "clean",
)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRGN_TOOLS_LAB_CACHE", str(tmp_path / "cache"))


@pytest.fixture(autouse=True)
def _keep_handler() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def no_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "_is_there", lambda need: False)
    monkeypatch.setattr(packages, "package_version", lambda package: "")


@pytest.fixture
def any_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "require", lambda needs, packages=(): None)
    monkeypatch.setattr(kernel, "program_version", lambda program: f"{program} 1")


# ---------------------------------------------------------------- command line


def _help(*command: str) -> str:
    result = subprocess.run(
        [sys.executable, "-m", "tests.lab", *command, "--help"],
        cwd=_ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return result.stdout


def test_help_names_every_command() -> None:
    text = _help()
    for command in _COMMANDS:
        assert re.search(rf"^    {command} ", text, re.M), command
    assert "DRGN_TOOLS_LAB_CACHE" in text


@pytest.mark.parametrize("command", _COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as e:
        cli.main([command, "--help"])
    assert e.value.code == 0
    assert f"tests.lab {command}" in capsys.readouterr().out


def test_no_command_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as e:
        cli.main([])
    assert e.value.code == 2
    assert capsys.readouterr().out == ""


def test_unknown_variant_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as e:
        cli.main(["dump", "fp-msb"])
    assert e.value.code == 2
    said = capsys.readouterr().err
    assert "'fp-msb'" in said
    assert "fp-lsb, fp-v3" in said


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "soon"])
def test_timeout_has_to_make_sense(seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as e:
        cli.main(["dump", "fp-lsb", "--timeout", seconds])
    assert e.value.code == 2


@pytest.mark.usefixtures("no_programs")
def test_list_works_where_nothing_is_installed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list"]) == 0
    text = capsys.readouterr().out
    for variant in VARIANTS:
        assert variant.name in text
        assert variant.what in text
    assert str(cache.cache_dir()) in text


@pytest.mark.usefixtures("no_programs")
def test_missing_programs_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["dump", "fp-lsb"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "lab: error: missing: qemu-system-x86_64; as root: apt-get install qemu-system-x86"
    ]


@pytest.mark.usefixtures("no_programs")
def test_all_missing_packages_come_in_one_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["build", "fp-lsb"]) == 1
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    for package in ("bc", "bison", "dwarves", "flex", "libelf-dev", "linux-source-6.12"):
        assert f" {package}" in err.split("apt-get install")[1]


def test_what_32_bit_guests_take_is_asked_for_before_their_kernel_is_built(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lacking = ("/usr/include/gnu/stubs-32.h",)
    monkeypatch.setattr(packages, "_is_there", lambda need: need not in lacking)
    monkeypatch.setattr(packages, "package_version", lambda package: "")
    assert cli.main(["dump", "i386-pae"]) == 1
    assert re.fullmatch(
        r"lab: error: missing: /usr/include/gnu/stubs-32.h, gcc-(\d+)-multilib;"
        r" as root: apt-get install gcc-\1-multilib libc6-dev-i386\n",
        capsys.readouterr().err,
    )


def test_packages_need_nothing_but_python() -> None:
    result = subprocess.run(
        [sys.executable, "-S", "-m", "tests.lab", "packages"],
        cwd=_ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    needed = result.stdout.split()
    assert {"flex", "qemu-system-x86", "linux-source-6.12", "busybox-static"} <= set(needed)
    assert needed == sorted(needed)


@pytest.mark.parametrize("words", [[], ["--all", "fp-lsb"]])
def test_dump_wants_variants_or_all(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as e:
        cli.main(["dump", *words])
    assert e.value.code == 2
    assert "--all" in capsys.readouterr().err


def test_dump_is_copied_with_what_belongs_to_it(tmp_path: Path) -> None:
    entry = tmp_path / "entry"
    entry.mkdir()
    vmlinux = tmp_path / "vmlinux"
    vmlinux.write_text("vmlinux")
    for name, text in (
        ("core", "core"),
        ("core.log", "log"),
        ("core.json", json.dumps({"vmlinux": str(vmlinux)})),
    ):
        (entry / name).write_text(text)
    assert Dump(entry).copy_to(tmp_path / "out", "fp") == tmp_path / "out" / "fp.core"
    copied = {path.name: path.read_text() for path in (tmp_path / "out").iterdir()}
    assert copied.keys() == {"fp.core", "fp.log", "fp.json", "fp.vmlinux"}
    assert copied["fp.vmlinux"] == "vmlinux"


def test_path_without_a_dump_says_how_to_make_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tests.lab.dump.cached_dump", lambda variant: None)
    assert cli.main(["path", "fp-lsb"]) == 1
    assert "python -m tests.lab dump fp-lsb" in capsys.readouterr().err


def test_sheet_of_something_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "text"
    text.write_text("no dump")
    for path in (text, tmp_path / "absent", tmp_path):
        assert cli.main(["sheet", str(path)]) == 1
        err = capsys.readouterr().err
        assert len(err.splitlines()) == 1
        assert str(path) in err


def test_termination_is_an_interrupt(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(variant: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)

    monkeypatch.setattr("tests.lab.dump.cached_dump", stop)
    assert cli.main(["path", "fp-lsb"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_clean_removes_only_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    for kind in ("dumps", "kernels", "trees"):
        (cache.cache_dir() / kind / "x").mkdir(parents=True)
    assert cli.main(["clean"]) == 0
    assert not (cache.cache_dir() / "dumps").exists()
    assert (cache.cache_dir() / "kernels" / "x").exists()
    assert cli.main(["clean", "--all"]) == 0
    assert not (cache.cache_dir() / "trees").exists()


def test_variants_are_complete() -> None:
    for variant in VARIANTS:
        assert variant_named(variant.name) is variant
        if isinstance(variant.kernel, BuiltKernel):
            for path in kernel._config_files(variant.kernel) + kernel._patch_files(variant.kernel):
                assert path.exists(), path


# ----------------------------------------------------------------------- cache


def test_cache_is_outside_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DRGN_TOOLS_LAB_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache.cache_dir() == Path("/somewhere/drgn-tools/lab")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.cache_dir() == Path.home() / ".cache/drgn-tools/lab"


def test_key_depends_on_every_input() -> None:
    key = cache.key_of({"a": "1", "b": "2"})
    assert key == cache.key_of({"b": "2", "a": "1"})
    assert len({key, cache.key_of({"a": "1"}), cache.key_of({"a": "2", "b": "1"})}) == 3


def test_file_hash_sees_name_and_content(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_text("x")
    b.write_text("x")
    before = cache.file_hash(a)
    assert before != cache.file_hash(b)
    a.write_text("y")
    assert before != cache.file_hash(a)


@pytest.mark.usefixtures("any_programs")
def test_kernel_key_changes_with_its_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = [
        BuiltKernel("linux-source-6.12", ("base", "frame_pointer")),
        BuiltKernel("linux-source-6.1", ("base", "frame_pointer")),
        BuiltKernel("linux-source-6.12", ("base",)),
        BuiltKernel("linux-source-6.12", ("frame_pointer", "base")),
        BuiltKernel("linux-source-6.12", ("base", "frame_pointer"), ("encode-msb-64",)),
    ]
    sources = [Source(each.source_package, "1.0-1", Path("x.tar.xz")) for each in kernels]
    keys = {
        cache.key_of(kernel.kernel_inputs(each, source)) for each, source in zip(kernels, sources)
    }
    assert len(keys) == len(kernels)
    newer = dataclasses.replace(sources[0], version="1.0-2")
    keys.add(cache.key_of(kernel.kernel_inputs(kernels[0], newer)))
    assert len(keys) == len(kernels) + 1
    for name, change in (
        ("program_version", lambda program: f"{program} 2"),
        ("KERNEL_SOURCES", kernel.KERNEL_SOURCES[:1]),
    ):
        with monkeypatch.context() as m:
            m.setattr(kernel, name, change)
            key = cache.key_of(kernel.kernel_inputs(kernels[0], sources[0]))
            assert key not in keys, name
            keys.add(key)


def _entries(kind: str = "things") -> list[str]:
    folder = cache.cache_dir() / kind
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_entry_is_made_once() -> None:
    made: list[Path] = []

    def fill(folder: Path) -> None:
        made.append(folder)
        (folder / "file").write_text("content")

    first = cache.make_entry("things", "x", {"a": "1"}, fill)
    assert cache.make_entry("things", "x", {"a": "1"}, fill) == first
    assert len(made) == 1
    assert made[0] != first  # filled under another name
    assert (first / "file").read_text() == "content"
    assert cache.find_entry("things", "x", {"a": "1"}) == first
    assert cache.find_entry("things", "x", {"a": "2"}) is None
    assert cache.make_entry("things", "x", {"a": "2"}, fill) != first
    assert len(made) == 2


@pytest.mark.parametrize("error", [LabError("no"), KeyboardInterrupt(), OSError("full")])
def test_failed_entry_leaves_nothing(error: BaseException) -> None:
    def fill(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise error

    with pytest.raises(type(error)):
        cache.make_entry("things", "x", {"a": "1"}, fill)
    assert _entries() == []
    assert cache.find_entry("things", "x", {"a": "1"}) is None


def test_fresh_replaces_and_a_failure_keeps_the_old() -> None:
    inputs = {"a": "1"}

    def writing(text: str) -> Path:
        def fill(folder: Path) -> None:
            (folder / "f").write_text(text)

        return cache.make_entry("things", "x", inputs, fill, fresh=True)

    entry = writing("old")
    assert (writing("new") / "f").read_text() == "new"

    def fail(folder: Path) -> None:
        raise LabError("no")

    with pytest.raises(LabError):
        cache.make_entry("things", "x", inputs, fail, fresh=True)
    assert (entry / "f").read_text() == "new"
    assert _entries() == [entry.name]


def test_what_a_killed_process_left_is_removed() -> None:
    left = cache.cache_dir() / "things" / ".part-abc"
    left.mkdir(parents=True)
    cache.make_entry("things", "x", {}, lambda folder: None)
    assert not left.exists()


def test_entries_may_be_made_within_entries() -> None:
    def fill(folder: Path) -> None:
        cache.make_entry("parts", "y", {}, lambda inner: None)

    cache.make_entry("things", "x", {}, fill)
    assert len(_entries()) == len(_entries("parts")) == 1


def test_a_new_dump_replaces_the_older_ones_of_its_variant() -> None:
    for name, inputs in (("x", "1"), ("x-y", "1"), ("x", "2"), ("x", "2")):
        cache.make_entry("dumps", name, {"a": inputs}, lambda folder: None)
    assert cache.find_entry("dumps", "x", {"a": "1"}) is None
    assert cache.find_entry("dumps", "x", {"a": "2"})
    assert cache.find_entry("dumps", "x-y", {"a": "1"})


def test_of_kernels_those_used_last_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cache._LIMITS, "kernels", 3 << 20)

    def fill(folder: Path) -> None:
        (folder / "vmlinux").write_bytes(b"x" * (1 << 20))

    def make(number: int) -> None:
        entry = cache.make_entry("kernels", "x", {"a": str(number)}, fill)
        os.utime(entry / cache.INPUTS_FILE, (number, number))

    make(1)
    make(2)
    assert cache.find_entry("kernels", "x", {"a": "1"})  # which uses it
    make(3)
    assert [bool(cache.find_entry("kernels", "x", {"a": str(i)})) for i in (1, 2, 3)] == [
        True,
        False,
        True,
    ]


def test_of_trees_those_built_in_last_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cache._LIMITS, "trees", 3 << 20)
    trees = cache.cache_dir() / "trees"
    for name, built in (("old", 1), ("new", 3), ("older", 2)):
        objects = trees / name / "build-x"
        objects.mkdir(parents=True)
        (objects / "vmlinux").write_bytes(b"x" * (2 << 20))
        for folder in (objects, trees / name):
            os.utime(folder, (built, built))
    cache.make_entry("kernels", "x", {}, lambda folder: None)
    assert _entries("trees") == ["new"]


def test_full_disk_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(variant: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/x/core")

    monkeypatch.setattr("tests.lab.dump.cached_dump", full)
    assert cli.main(["path", "fp-lsb"]) == 1
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert "/x/core" in err
    assert "clean" in err


# ------------------------------------------------------------- child processes


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")
    return not state.exists() or state.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def _wait_until_gone(pid: int) -> None:
    limit = time.monotonic() + 10
    while _alive(pid):
        assert time.monotonic() < limit, f"{pid} is still there"
        time.sleep(0.02)


class _Interrupting(Progress):
    """A Ctrl-C as soon as the child has said something."""

    def __init__(self) -> None:
        super().__init__("test", io.StringIO())
        self.said = ""

    def update(self, detail: str) -> None:
        self.said = detail
        raise KeyboardInterrupt


def test_interrupt_ends_the_whole_family(tmp_path: Path) -> None:
    progress = _Interrupting()
    with pytest.raises(KeyboardInterrupt):
        run(["sh", "-c", "sleep 1000 & echo $!; wait"], progress, log=tmp_path / "log")
    _wait_until_gone(int(progress.said))


def test_stubborn_family_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.lab.run._GRACE_SECONDS", 0.2)
    progress = _Interrupting()
    script = "trap '' TERM; sh -c 'trap \"\" TERM; echo $$; exec sleep 1000'; true"
    with pytest.raises(KeyboardInterrupt):
        run(["sh", "-c", script], progress, log=tmp_path / "log")
    _wait_until_gone(int(progress.said))


def test_failure_shows_the_end_of_what_was_said(tmp_path: Path) -> None:
    progress = Progress("test", io.StringIO())
    with pytest.raises(LabError, match=r"(?s)exit code 3.*line 99\n$") as e:
        run(
            ["sh", "-c", "for i in $(seq 99); do echo line $i; done; exit 3"],
            progress,
            log=tmp_path / "log",
        )
    assert "line 50\n" not in str(e.value)
    assert "line 50\n" in (tmp_path / "log").read_text()


def test_progress_is_quiet_where_there_is_no_terminal(tmp_path: Path) -> None:
    stream = io.StringIO()
    with Progress("working", stream) as progress:
        said = run(["sh", "-c", "seq 1000"], progress, log=tmp_path / "log")
    assert said.endswith("1000\n")
    lines = stream.getvalue().splitlines()
    assert lines[0] == "lab: working ..."
    assert re.fullmatch(r"lab: working: done after \d+\.\d s", lines[1])
    assert len(lines) == 2


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_on_a_terminal_is_one_line_and_harmless() -> None:
    stream = _Terminal()
    with Progress("working", stream) as progress:
        progress.update("CC kernel/\x1b[2Jfork.o")
    text = stream.getvalue()
    assert "CC kernel/?[2Jfork.o" in text
    assert text.count("\n") == 1


# --------------------------------------------------------------------- machine

_FAKE_QEMU = """
import json, sys, time
log = next(a for a in sys.argv if a.startswith("file:"))[5:]
print(json.dumps({"QMP": {}}), flush=True)
with open(log, "a") as console:
    console.write(sys.argv[1].replace("|", "\\n"))
for line in sys.stdin:
    name = json.loads(line)["execute"]
    print(json.dumps({"event": "SOMETHING"}), flush=True)
    if name == "refuse":
        print(json.dumps({"error": {"desc": "not now"}}), flush=True)
    elif name == "die":
        sys.exit("dead")
    else:
        print(json.dumps({"return": {}}), flush=True)
"""


def _machine(tmp_path: Path, console: str) -> Machine:
    fake = tmp_path / "qemu.py"
    fake.write_text(_FAKE_QEMU)
    return Machine([sys.executable, str(fake), console], tmp_path / "core.log")


def _quiet() -> Progress:
    return Progress("test", io.StringIO())


def test_machine_waits_commands_and_ends(tmp_path: Path) -> None:
    with _machine(tmp_path, "boot|SHEET 12 |") as machine:
        found = machine.wait_for(re.compile(r"SHEET (\d+) "), _quiet(), 10)
        assert found[1] == "12"
        machine.command("stop")
        pid = machine._process.pid
    assert not _alive(pid)
    assert (tmp_path / "core.log").read_text() == "boot\nSHEET 12 \n"


def test_machine_ends_on_an_exception(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), _machine(tmp_path, "") as machine:
        pid = machine._process.pid
        raise KeyboardInterrupt
    assert not _alive(pid)


@pytest.mark.parametrize(
    ("console", "message"),
    [
        ("one|LAB-FAILED no pipes|", "the guest failed: no pipes; the end of its console:\none\n"),
        ("Kernel panic - not syncing: x|", "the guest failed: not syncing: x"),
        ("still booting|", "not ready after 0 s; the end of its console:\nstill booting"),
    ],
)
def test_guest_that_fails(tmp_path: Path, console: str, message: str) -> None:
    with _machine(tmp_path, console) as machine:
        time.sleep(0.3)
        with pytest.raises(LabError) as e:
            machine.wait_for(re.compile("SHEET"), _quiet(), 0.3)
    assert message in str(e.value)


def test_qemu_that_refuses_or_dies(tmp_path: Path) -> None:
    with _machine(tmp_path, "") as machine:
        with pytest.raises(LabError, match="refuse: not now"):
            machine.command("refuse")
        with pytest.raises(LabError, match="QEMU ended: dead"):
            machine.command("die")
        with pytest.raises(LabError, match="QEMU ended: dead"):
            machine.command("stop")


def test_qemu_command(tmp_path: Path) -> None:
    command = qemu_command(
        VARIANTS[0],
        Kernel(tmp_path, tmp_path / "bzImage", (), "x 1"),
        tmp_path / "i.gz",
        mode="freeze",
    )
    assert "vmcoreinfo" in command
    assert "init_on_free=1" in command[command.index("-append") + 1]
    assert command[command.index("-m") + 1] == str(VARIANTS[0].memory_mib)


# ------------------------------------------------------------------- the parts


def test_initramfs(tmp_path: Path) -> None:
    path = tmp_path / "i.gz"
    write_initramfs(path, {"init": b"#!", "modules/order": b"x\n"})
    first = path.read_bytes()
    archive = gzip.decompress(first)
    names: list[str] = []
    at = 0
    while names[-1:] != ["TRAILER!!!"]:
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        name = archive[at + 110 : at + 110 + fields[11] - 1].decode()
        names.append(name)
        data = (at + 110 + fields[11] + 3) & ~3
        if name == "init":
            assert archive[data : data + fields[6]] == b"#!"
            assert fields[1] == 0o100755
        at = (data + fields[6] + 3) & ~3
    assert names == ["modules", "init", "modules/order", "TRAILER!!!"]
    write_initramfs(path, {"modules/order": b"x\n", "init": b"#!"})
    assert path.read_bytes() == first


def test_options_kconfig_did_not_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fragment = tmp_path / "f.config"
    fragment.write_text(
        "# words\nCONFIG_A=y\nCONFIG_B=y\n# CONFIG_C is not set\n# CONFIG_D is not set\n"
    )
    monkeypatch.setattr(kernel, "_config_files", lambda k: [fragment])
    config = "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=m\n"
    refused = kernel._refused(BuiltKernel("x", ("f",)), config)
    assert list(refused) == ["CONFIG_B=y", "# CONFIG_C is not set"]


def test_header_packages_can_be_moved(tmp_path: Path) -> None:
    makefile = tmp_path / "Makefile"
    makefile.write_text("include /usr/src/linux-headers-6.1-common/Makefile\nX = ../usr/src/y\n")
    stock_packages.relocate(makefile, Path("/cache/root"))
    assert makefile.read_text() == (
        "include /cache/root/usr/src/linux-headers-6.1-common/Makefile\nX = ../usr/src/y\n"
    )


def test_package_unknown_to_apt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        subprocess, "run", lambda *a, **k: subprocess.CompletedProcess(a, 100, stdout="")
    )
    with pytest.raises(LabError, match="apt-get update"):
        apt.newest("", "linux-image-amd64")


def test_dependencies_of_the_meta_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    headers = apt.Package(
        "linux-headers-6.1.0-9-amd64",
        "6.1.9-1",
        "linux-headers-6.1.0-9-common (= 6.1.9-1), linux-kbuild-6.1 (>= 6.1.9-1), linux-compiler-gcc-12-x86",
    )
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    assert stock_packages.compiler_of(headers.depends) == "gcc-12"
    assert stock_packages.compiler_of("gcc-16-for-host, linux-base") == "gcc-16"
    assert stock_packages.compiler_of("linux-base") == "gcc"
    # What is not installed is built with what is.
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert stock_packages.compiler_of(headers.depends) == "gcc"
    with pytest.raises(LabError, match="linux-image"):
        stock_packages._dependency("", headers, r"linux-image-[^ ,]+")


def test_libraries_of_another_suite(monkeypatch: pytest.MonkeyPatch) -> None:
    depends = {
        "libelf1t64": "libc6 (>= 2.38), libzstd1 (>= 1.5.5), zlib1g (>= 1:1.1.4)",
        "libc6": "libgcc-s1, libc-gconv-modules-extra (= 2.43-7)",
        "libgcc-s1": "gcc-16-base, libc6",
    }
    monkeypatch.setattr(
        stock_packages, "newest", lambda _, name: apt.Package(name, "1", depends.get(name, ""))
    )
    kbuild = apt.Package("linux-kbuild-7.2", "7.2-1", "pahole, libc6 (>= 2.38), libelf1t64")
    assert stock_packages._libraries("forky", kbuild) == {
        "libc6", "libelf1t64", "libgcc-s1", "libzstd1", "zlib1g",
    }  # fmt: skip


def test_whose_libc_programs_are_run_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "confstr", lambda name: "glibc 2.36")
    for wanted, runs in (("2.4", True), ("2.36", True), ("2.38", False), ("3.0", False)):
        kbuild = apt.Package("linux-kbuild", "1", f"libelf1, libc6 (>= {wanted})")
        assert stock_packages._runs_here(kbuild) is runs


def test_a_program_is_run_with_the_libc_beside_it(tmp_path: Path) -> None:
    loader = tmp_path / "usr/lib64/ld-linux-x86-64.so.2"
    loader.parent.mkdir(parents=True)
    loader.write_text('#!/bin/sh\necho "$@"\n')
    loader.chmod(0o755)
    program, script = tmp_path / "fixdep", tmp_path / "headers.sh"
    program.write_bytes(b"\x7fELF")
    script.write_text("#!/bin/sh\n")
    for path in (program, script):
        path.chmod(0o755)
        stock_packages._run_with_own_libc(path, tmp_path)
    assert script.read_text() == "#!/bin/sh\n"
    said = subprocess.run([program, "a b"], stdout=subprocess.PIPE, text=True, check=True).stdout
    libraries = tmp_path / "usr/lib/x86_64-linux-gnu"
    assert said == f"--library-path {libraries} --argv0 {program} {program}.elf a b\n"


def test_cached_names_the_kernels_that_are_not_built(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["cached", "crashes", "crashes-years"]) == 1
    assert capsys.readouterr().err == (
        "lab: error: not built yet: fp-5.10, fp-6.1, fp-7.2, fp-lsb\n"
    )
