# SPDX-License-Identifier: LGPL-2.1-or-later
"""Compressed cores: what comes out, where it goes, and that nothing is left of a failure."""

from __future__ import annotations

import errno
import gzip
import importlib.util
import lzma
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import BinaryIO

import pytest

from drgn_tools import open_program
from drgn_tools.data import demo_vmcore
from drgn_tools.errors import EXIT_INPUT, InputError
from drgn_tools.program import core_cache
from drgn_tools.program import unpack as unpack_module
from drgn_tools.program.unpack import packed_start, unpacked

from ..support.damaged_cores import of_much_memory

HOLE = 8 << 20
CONTENTS = random.Random(1).randbytes(300_000) + bytes(HOLE) + b"the end" + bytes(70_000)


def zstd_compress(data: bytes) -> bytes:
    if shutil.which("zstd") is None:
        pytest.skip("needs the zstd program")
    return subprocess.run(["zstd", "-qc"], input=data, capture_output=True, check=True).stdout


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "xz": lzma.compress,
    "zstd": zstd_compress,
}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "drgn-tools" / "cores"


@pytest.fixture(params=PACKERS)
def packed(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "vmcore"  # told by its first bytes, not by its name
    path.write_bytes(PACKERS[request.param](CONTENTS))
    return path


def test_unpacked_once_with_holes(packed: Path, cache: Path) -> None:
    calls: list[tuple[int, int]] = []
    path = unpacked(str(packed), lambda done, total: calls.append((done, total)))
    assert path.read_bytes() == CONTENTS
    assert path.parent == cache
    assert path.stat().st_mode & 0o077 == 0  # memory of a machine is not for everybody
    assert path.stat().st_blocks * 512 < len(CONTENTS) - HOLE // 2
    assert calls[-1] == (packed.stat().st_size, packed.stat().st_size)
    calls.clear()
    assert unpacked(str(packed), lambda done, total: calls.append((done, total))) == path
    assert calls == []


def test_another_file_of_the_same_name_is_unpacked_anew(packed: Path, cache: Path) -> None:
    first = unpacked(str(packed))
    packed.write_bytes(gzip.compress(b"something else"))
    assert unpacked(str(packed)) != first


def test_what_is_not_packed_stays_where_it_is(tmp_path: Path, cache: Path) -> None:
    plain = tmp_path / "vmcore.xz"
    plain.write_bytes(b"\x7fELF and so on")
    assert unpacked(str(plain)) == plain
    assert not cache.exists()


def test_cut_short_anywhere(packed: Path, cache: Path) -> None:
    whole = packed.read_bytes()
    for length in (8, 20, 1000, len(whole) // 2, len(whole) - 5, len(whole) - 1):
        packed.write_bytes(whole[:length])
        with pytest.raises(InputError, match="is cut short or damaged") as raised:
            unpacked(str(packed))
        assert "\n" not in str(raised.value)
        assert list(cache.iterdir()) == []


def test_damaged(packed: Path, cache: Path) -> None:
    data = bytearray(packed.read_bytes())
    for at in range(100, 200):
        data[at] ^= 0x55
    packed.write_bytes(data)
    with pytest.raises(InputError, match="is cut short or damaged"):
        unpacked(str(packed))
    assert list(cache.iterdir()) == []


def test_interrupted(packed: Path, cache: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        unpacked(str(packed), interrupt)
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("size", [4, 64, 300_000])
def test_the_start_alone_is_unpacked(
    size: int, packed: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpack_module, "_CHUNK_BYTES", 100)
    assert packed_start(str(packed), size) == CONTENTS[:size]
    assert not cache.exists()


def test_the_start_of_what_cannot_be_unpacked_is_none(packed: Path) -> None:
    whole = packed.read_bytes()
    packed.write_bytes(whole[:20])
    assert packed_start(str(packed), 64) is None
    packed.write_bytes(CONTENTS)
    assert packed_start(str(packed), 64) is None


def test_the_start_of_what_nothing_here_unpacks_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "core.zst"
    path.write_bytes(b"\x28\xb5\x2f\xfd and so on")
    monkeypatch.setattr(unpack_module, "find_spec", lambda name: None)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert packed_start(str(path), 64) is None


def test_no_room(packed: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nearly_full = SimpleNamespace(f_bavail=10, f_frsize=4096)
    monkeypatch.setattr(os, "statvfs", lambda fd: nearly_full)
    with pytest.raises(InputError, match=r"no room left .* set XDG_CACHE_HOME"):
        unpacked(str(packed))
    assert list(cache.iterdir()) == []


def test_a_cache_that_cannot_be_written(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(in_the_way))
    path = unpacked(str(packed))
    assert path.read_bytes() == CONTENTS
    assert path.parent.name.startswith("drgn-tools-")


@pytest.mark.parametrize(
    "way", ["_stdlib_zstd_chunks", "_zstandard_chunks", "_zstd_program_chunks"]
)
def test_every_way_to_unpack_zstd(way: str, tmp_path: Path) -> None:
    needed = {"_stdlib_zstd_chunks": "compression", "_zstandard_chunks": "zstandard"}
    if way in needed and importlib.util.find_spec(needed[way]) is None:
        pytest.skip(f"needs {needed[way]}")
    whole = zstd_compress(CONTENTS)
    path = tmp_path / "core.zst"
    for contents in (whole, whole + whole):
        path.write_bytes(contents)
        with open(path, "rb") as file:
            found = b"".join(getattr(unpack_module, way)(file))
        assert found == CONTENTS * (len(contents) // len(whole))
    for length in (20, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with open(path, "rb") as file, pytest.raises(unpack_module._CorruptError):
            list(getattr(unpack_module, way)(file))


def test_nothing_to_unpack_zstd_with(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "core.zst"
    path.write_bytes(b"\x28\xb5\x2f\xfd and so on")
    monkeypatch.setattr(unpack_module, "find_spec", lambda name: None)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(InputError, match=r"pip install zstandard"):
        unpacked(str(path))


def test_a_packed_core_opens() -> None:
    prog = open_program(core=demo_vmcore())
    assert prog["init_task"].comm.string_() == b"swapper/0"


def test_a_copy_that_somebody_cut_short_is_made_again(packed: Path, cache: Path) -> None:
    good = unpacked(str(packed)).read_bytes()
    unpacked(str(packed)).write_bytes(b"garbage")
    assert unpacked(str(packed)).read_bytes() == good
    assert len(list(cache.rglob("*.core"))) == 1


@pytest.mark.parametrize("jump_s", [40 * 24 * 3600, -40 * 24 * 3600])
def test_a_clock_that_jumps_takes_nothing_away_from_who_unpacks(
    jump_s: int, packed: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.mkdir(parents=True, exist_ok=True)
    now = time.time() + jump_s
    monkeypatch.setattr(core_cache, "time", SimpleNamespace(time=lambda: now))
    seen = []

    def progress(done: int, total: int) -> None:
        # Another process begins to unpack something, after the jump.
        core_cache.remove_abandoned(cache)
        seen.append(len(list(cache.glob("unpacking-*"))))

    assert unpacked(str(packed), progress).parent == cache
    assert seen
    assert set(seen) == {1}
    # Of a process that is gone, it goes, also if it seems to be of a time to come.
    left = cache / "unpacking-left"
    left.touch()
    core_cache.remove_abandoned(cache)
    assert not left.exists()


def test_what_a_killed_run_left_behind_goes_away(packed: Path, cache: Path) -> None:
    unpacked(str(packed)).unlink()
    old, young = cache / "unpacking-old", cache / "unpacking-young"
    old.touch()
    young.touch()
    os.utime(old, (0, 0))
    unpacked(str(packed))
    assert (old.exists(), young.exists()) == (False, True)


def test_a_copy_that_vanishes_meanwhile_is_made_again(
    packed: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # tmpreaper, or another drgn-tools that takes it for damaged: between a look into the folder and
    # one at the file.
    good = unpacked(str(packed))
    stat = Path.stat

    def gone(path: Path, **options: bool) -> os.stat_result:
        if path.suffix == ".core":
            path.unlink(missing_ok=True)
        return stat(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "stat", gone)
        again = unpacked(str(packed))
    assert again == good
    assert again.read_bytes() == CONTENTS


def test_a_cache_that_vanishes_meanwhile(
    packed: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpacked(str(packed))

    def gone(folder: Path, pattern: str) -> Iterator[Path]:
        shutil.rmtree(cache)
        raise FileNotFoundError(2, "No such file or directory", str(folder))

    monkeypatch.setattr(Path, "glob", gone)
    with pytest.raises(
        InputError, match=rf"cannot be unpacked into {cache}: No such file"
    ) as raised:
        unpacked(str(packed))
    assert "\n" not in str(raised.value)


def test_a_copy_that_cannot_be_removed_is_in_nobodys_way(packed: Path, cache: Path) -> None:
    good = unpacked(str(packed))
    in_the_way = good.with_name(good.name.replace(good.stem.rpartition("-")[2], "5"))
    in_the_way.mkdir()  # of the name, not of the size, and unlink() does not remove it
    assert unpacked(str(packed)).read_bytes() == CONTENTS


def test_the_packed_file_cannot_be_read(
    packed: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(file: BinaryIO) -> Iterator[bytes]:
        yield CONTENTS[:1000]
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    readers = dict.fromkeys(PACKERS, broken)
    monkeypatch.setattr(unpack_module, "_READERS", readers)
    with pytest.raises(InputError) as raised:
        unpacked(str(packed))
    # A larger disk would be of no help.
    assert str(raised.value) == f"{packed}: cannot be read: Input/output error"
    assert list(cache.iterdir()) == []


def test_unpacking_takes_more_memory_than_there_is(tmp_path: Path, cache: Path) -> None:
    # The size of the dictionary, 1.5 GiB, is for the file to say.
    path = of_much_memory(tmp_path)
    limited = (
        "import resource, sys; from drgn_tools.commands.main import main; "
        f"resource.setrlimit(resource.RLIMIT_DATA, ({1 << 29}, {1 << 29})); "
        "sys.exit(main(['tasks', '-c', sys.argv[1]]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", limited, str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == EXIT_INPUT, done.stderr
    assert done.stderr == (
        f"drgn-tools: error: {path}: cannot be unpacked: there is not enough memory\n"
    )
