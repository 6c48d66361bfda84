# SPDX-License-Identifier: LGPL-2.1-or-later
"""Is it still the content that was audited? Yes for a copy, no for a changed byte."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Optional

import pytest
from msgspec.structs import replace

pytest.importorskip("pyarrow", reason="needs the extra drgn-tools[fleet]")

from drgn_tools import __version__
from drgn_tools.errors import InputError
from drgn_tools.fleet.run import identity
from drgn_tools.fleet.run.audit_source import audit_source
from drgn_tools.fleet.run.identity import file_id, joint_id, remote_id
from drgn_tools.fleet.run.job import Job
from drgn_tools.fleet.run.source import Source

MIB = 1 << 20


def sparse(path: Path, size: int, **bytes_at: int) -> str:
    """A file of zeros, but for single bytes: ``at_5=1``."""
    with open(path, "wb") as file:
        file.truncate(size)
        for name, value in bytes_at.items():
            file.seek(int(name.rpartition("_")[2]))
            file.write(bytes((value,)))
    return str(path)


def test_a_copy_is_the_same_under_another_name_and_time(tmp_path: Path) -> None:
    one, other = tmp_path / "a", tmp_path / "b"
    one.write_bytes(os.urandom(3 * MIB))
    other.write_bytes(one.read_bytes())
    os.utime(other, (1, 1))
    assert file_id(str(one)) == file_id(str(other))


@pytest.mark.parametrize("size", [1, 5, MIB, MIB + 1, 3 * MIB + 5])
def test_each_byte_counts(size: int, tmp_path: Path) -> None:
    places = sorted({0, 1 % size, size // 2, size // 3, MIB % size, size - 1})
    ids = [file_id(sparse(tmp_path / "core", size))]
    ids += [file_id(sparse(tmp_path / "core", size, **{f"at_{n}": 1})) for n in places]
    assert len(set(ids)) == len(ids)


def test_the_length_counts(tmp_path: Path) -> None:
    sizes = (0, 1, 4096, 64 * MIB, 64 * MIB + 1, 64 * MIB + 2)
    ids = []
    for size in sizes:
        path = sparse(tmp_path / "core", size)
        os.utime(path, (1, 1))
        ids.append(file_id(path))
    assert len(set(ids)) == len(sizes)


def test_the_last_byte_of_the_largest_that_is_read_whole(tmp_path: Path) -> None:
    size = 64 * MIB
    assert size == identity._WHOLE_BYTES
    ids = {
        file_id(sparse(tmp_path / f"core-{n}", size, **{f"at_{n}": 1}))
        for n in (40 * MIB + 12345, size - 1)
    }
    ids.add(file_id(sparse(tmp_path / "core", size)))
    assert len(ids) == 3


def test_of_a_large_file_ends_samples_and_mtime_count(tmp_path: Path) -> None:
    size = 80 * MIB

    def id_of(mtime: int = 1, **bytes_at: int) -> str:
        path = sparse(tmp_path / "core", size, **bytes_at)
        os.utime(path, (mtime, mtime))
        return file_id(path)

    same = id_of()
    assert id_of() == same
    assert id_of(mtime=2) != same
    for place in (0, MIB - 1, MIB, size - MIB, size - 1):
        assert id_of(**{f"at_{place}": 1}) != same, place


def test_a_huge_hole_is_not_read(tmp_path: Path) -> None:
    # Read at a gigabyte a second, this were 17 minutes.
    assert file_id(sparse(tmp_path / "core", 1 << 40))


def test_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        file_id(str(tmp_path / "core"))
    with pytest.raises(InputError, match="is a directory"):
        file_id(str(tmp_path))
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(InputError, match="is a pipe, not a file"):
        file_id(str(tmp_path / "fifo"))


def test_parts_do_not_flow_together() -> None:
    ids = [
        joint_id(parts) for parts in ((), ("",), ("ab", "c"), ("a", "bc"), ("abc",), ("a\0", "b"))
    ]
    assert len(set(ids)) == len(ids)


# ---- of files elsewhere

JUNE = datetime(2026, 6, 1, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"ETag": '"a"', "size": 5}, {"ETag": '"b"', "size": 5}),
        ({"etag": "a", "size": 5}, {"etag": "a", "size": 6}),
        ({"LastModified": JUNE, "size": 5}, {"LastModified": JUNE.replace(day=2), "size": 5}),
        ({"md5Hash": "a"}, {"md5Hash": "b"}),
        ({"content_md5": b"a"}, {"content_md5": b"b"}),
        ({"mtime": 1.5, "size": 5}, {"mtime": 1.75, "size": 5}),
    ],
)
def test_what_a_server_says_of_a_change(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert remote_id(before) == remote_id({"name": "elsewhere", **before}) != ""
    assert remote_id(before) != remote_id(after)


@pytest.mark.parametrize(
    "info",
    [
        {},
        {"size": 5},
        {"ETag": "", "size": 5},
        {"ETag": None},
        {"mtime": 5},
        {"name": "x", "type": "file"},
    ],
)
def test_a_server_that_does_not_tell(info: dict[str, Any]) -> None:
    assert remote_id(info) == "", "then it has to be read"


# ---- of sources


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """A file that is soon refused: it has an identity all the same."""
    path = tmp_path / "vmcore"
    path.write_bytes(b"no core")
    return path


def content_id(source: Source, max_tasks: Optional[int] = None) -> Any:
    record = audit_source(Job(source, "key"), max_tasks).record
    assert record["status"] == "failed"
    return record["content_id"]


@pytest.fixture
def sources(text: Path, tmp_path: Path) -> Iterator[list[Source]]:
    """Sources of one core, each with something else to be said of it."""
    one, other = tmp_path / "vmlinux-1", tmp_path / "vmlinux-2"
    one.write_bytes(b"1")
    other.write_bytes(b"2")
    plain = Source(name=str(text), core=str(text))
    yield [
        plain,
        replace(plain, host="web-1"),
        replace(plain, host="web-2"),
        replace(plain, host=""),
        replace(plain, time_us=1),
        replace(plain, time_us=2),
        replace(plain, tags={"a": "b"}),
        replace(plain, tags={"a": "c"}),
        replace(plain, symbols=(str(one),)),
        replace(plain, symbols=(str(other),)),
        replace(plain, symbols=(str(one), str(other))),
        replace(plain, vmcoreinfo="auto"),
        replace(plain, vmcoreinfo=str(one)),
        replace(plain, vmcoreinfo=str(other)),
        replace(plain, vmcoreinfo=str(other), symbols=(str(one),)),
    ]


def test_all_that_a_record_depends_on(sources: list[Source]) -> None:
    ids = [content_id(source) for source in sources]
    ids.append(content_id(sources[0], max_tasks=5))
    assert len(set(ids)) == len(ids)


def test_what_it_does_not_depend_on(sources: list[Source], text: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere"
    copy.write_bytes(text.read_bytes())
    plain = sources[0]
    tags = replace(plain, tags={"a": "1", "b": "2"})
    assert content_id(replace(plain, name="x", core=str(copy))) == content_id(plain)
    assert content_id(replace(tags, tags={"b": "2", "a": "1"})) == content_id(tags)


def test_unchanged_symbols_that_changed(sources: list[Source]) -> None:
    source = sources[8]
    known = content_id(source)
    assert audit_source(Job(source, "key", known)).unchanged
    Path(source.symbols[0]).write_bytes(b"3")
    assert not audit_source(Job(source, "key", known)).unchanged


def test_a_record_of_this_version_says_so(text: Path) -> None:
    record = audit_source(Job(Source(name="a", core=str(text)), "key")).record
    assert record["tool"] == __version__
    assert record["exit_code"] == 3
    assert record["size_bytes"] == 7
