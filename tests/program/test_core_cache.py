# SPDX-License-Identifier: LGPL-2.1-or-later
"""The folder of unpacked cores: what stays within its limit, and what goes."""

from __future__ import annotations

import gc
import gzip
import os
import random
from pathlib import Path
from typing import Optional

import pytest

from drgn_tools import open_program
from drgn_tools.data import demo_vmcore
from drgn_tools.errors import UsageError
from drgn_tools.program.core_cache import hold_core, parse_size, size_limit, trim_cache
from drgn_tools.program.unpack import unpacked

MIB = 1 << 20


def core(folder: Path, name: str, age_s: int, holes: int = 0) -> Path:
    """A core of 1 MiB on the disk that was used so long ago."""
    path = folder / f"{name}-{MIB + holes}.core"
    path.write_bytes(random.Random(name).randbytes(MIB))
    os.truncate(path, MIB + holes)
    os.utime(path, (1_700_000_000 - age_s,) * 2)
    return path


def left(folder: Path) -> str:
    return "".join(sorted(path.name[0] for path in folder.iterdir()))


@pytest.mark.parametrize(
    ("limit_mib", "stays"), [(9, "abcd"), (4, "abcd"), (3, "abc"), (2, "ab"), (1, "a"), (0, "a")]
)
def test_what_was_not_used_for_longest_goes(limit_mib: int, stays: str, tmp_path: Path) -> None:
    for age, name in enumerate("abcd"):
        core(tmp_path, name, age)
    # A file system may take a block more for each.
    keep = next(tmp_path.glob("a-*"))
    trim_cache(tmp_path, limit_mib * MIB + 100_000, keep)
    assert left(tmp_path) == stays


def test_holes_do_not_count(tmp_path: Path) -> None:
    old = core(tmp_path, "b", 9, holes=1 << 40)
    if old.stat().st_blocks * 512 > 2 * MIB:
        pytest.skip("a file system without holes")
    trim_cache(tmp_path, 2 * MIB + 100_000, core(tmp_path, "a", 0))
    assert left(tmp_path) == "ab"


def test_a_core_in_use_stays(tmp_path: Path) -> None:
    new, _, used = (core(tmp_path, name, age) for age, name in enumerate("abc"))
    with hold_core(str(used)) as held:
        assert held is not None
        trim_cache(tmp_path, 0, new)
        assert left(tmp_path) == "ac"
    trim_cache(tmp_path, 0, new)
    assert left(tmp_path) == "a"
    assert hold_core(str(used)) is None


def test_an_open_program_holds_its_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("DRGN_TOOLS_CACHE_SIZE", "0")
    prog = open_program(core=demo_vmcore())
    other = tmp_path / "other.gz"
    other.write_bytes(gzip.compress(b"other"))
    last = unpacked(str(other))
    folder = last.parent
    assert len(list(folder.iterdir())) == 2
    assert prog["init_task"].comm.string_() == b"swapper/0"
    del prog
    gc.collect()
    other.write_bytes(gzip.compress(b"and another"))
    last = unpacked(str(other))
    assert list(folder.iterdir()) == [last]


def test_a_core_that_is_used_again_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    packed = tmp_path / "vmcore"
    packed.write_bytes(gzip.compress(b"core"))
    copy = unpacked(str(packed))
    os.utime(copy, (0, 0))
    assert unpacked(str(packed)) == copy
    assert copy.stat().st_mtime > 1_700_000_000


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("512", 512),
        ("3K", 3 << 10),
        ("512M", 512 << 20),
        ("20GiB", 20 << 30),
        ("1T", 1 << 40),
        ("", None),
        ("-1", None),
        ("1.5G", None),
        ("2P", None),
        ("\u0663", None),
    ],
)
def test_sizes(text: str, size: Optional[int]) -> None:
    assert parse_size(text) == size


def test_the_limit_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DRGN_TOOLS_CACHE_SIZE", raising=False)
    assert size_limit() == 20 << 30
    monkeypatch.setenv("DRGN_TOOLS_CACHE_SIZE", "100M")
    assert size_limit() == 100 << 20
    monkeypatch.setenv("DRGN_TOOLS_CACHE_SIZE", "much")
    with pytest.raises(
        UsageError, match=r"DRGN_TOOLS_CACHE_SIZE takes a size, as in 20G, not 'much'"
    ):
        size_limit()
