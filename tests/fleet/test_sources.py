# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a run was given, as a list of sources: what is found, by which name, and what is refused."""

from __future__ import annotations

import gzip
import http.server
import json
import lzma
import os
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from drgn_tools.errors import DrgnToolsError, InputError, UsageError
from drgn_tools.fleet.run.source import Source, list_sources
from drgn_tools.program import unpack
from drgn_tools.program.elf import ET_CORE, ET_EXEC

MICROSECOND = 1_000_000


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(path: str, content: bytes = b"") -> str:
    """An absolute path, with that in it."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(content)
    return os.path.abspath(path)


def names(*given: str) -> list[str]:
    return [source.name for source in list_sources(given).sources]


def refusal(kind: type[DrgnToolsError], *given: str) -> str:
    with pytest.raises(DrgnToolsError) as raised:
        list_sources(given)
    assert type(raised.value) is kind
    message = str(raised.value)
    assert message.isprintable()
    assert len(message) < 400
    return message


# ---- files and folders


def test_a_file_is_a_source_by_its_absolute_path_whatever_it_holds(tmp_path: Path) -> None:
    write("notes.txt", b"no core")
    assert list_sources(["notes.txt"]).sources == [
        Source(name=f"{tmp_path}/notes.txt", core=f"{tmp_path}/notes.txt")
    ]
    assert names("./notes.txt", f"{tmp_path}/../{tmp_path.name}/notes.txt") == [
        f"{tmp_path}/notes.txt"
    ]


def test_a_folder_is_searched_through() -> None:
    found = [
        write("crash/127.0.0.1-2026/vmcore", b"\x7fELF"),
        write("crash/dump.202611221743"),
        write("crash/host/deep/down/vmcore.flat"),
        write("crash/kdump-by-its-first-bytes", b"KDUMP   " + bytes(9)),
        write("crash/memory.bin", core()),
    ]
    write("crash/.vmcore")
    write("crash/.hidden/vmcore")
    os.mkfifo("crash/vmcore.fifo")
    over = [
        write("crash/127.0.0.1-2026/vmcore-dmesg.txt"),
        write("crash/host/readme"),
        write("crash/program", core(ET_EXEC)),
        write("crash/vmcore.json"),
    ]
    listing = list_sources(["crash"])
    assert [source.name for source in listing.sources] == sorted(
        found, key=lambda name: (os.path.dirname(name), name)
    )
    assert sorted(map(os.path.abspath, listing.passed_over)) == sorted(over)


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress])
def test_a_packed_file_is_looked_into(pack: Callable[[bytes], bytes]) -> None:
    kdump = b"KDUMP   " + bytes(1 << 20)
    found = [
        write("crash/cut.xz", pack(core() + bytes(3 << 20))),
        write("crash/unread", pack(kdump)),
        write("crash/whole-start", pack(kdump + os.urandom(3 << 20))[: 1 << 21]),
    ]
    write("crash/log.gz", pack(b"a log"))
    write("crash/program.gz", pack(core(ET_EXEC)))
    write("crash/nothing", pack(b""))
    write("crash/torn.gz", pack(core())[:12])
    assert sorted(names("crash")) == sorted(found)


def test_a_file_that_no_one_can_unpack_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpack, "find_spec", lambda name: None)
    monkeypatch.setattr(unpack.shutil, "which", lambda name: None)
    write("crash/packed", b"\x28\xb5\x2f\xfd" + bytes(32))
    assert names("crash") == []


def core(type_: int = ET_CORE) -> bytes:
    """The first bytes of an ELF file."""
    return b"\x7fELF\x02\x01\x01" + bytes(9) + bytes((type_, 0))


def test_links() -> None:
    core = write("store/vmcore")
    os.makedirs("crash")
    os.symlink(core, "crash/vmcore-latest")
    os.symlink("nowhere", "crash/vmcore-lost")
    os.symlink("nowhere", "crash/lost.txt")
    os.symlink("..", "crash/loop")
    here = os.path.abspath("crash")
    assert names("crash") == [f"{here}/vmcore-latest", f"{here}/vmcore-lost"]
    # What is named, or matches, is there for its record to say.
    assert names("crash/vmcore-lost") == [f"{here}/vmcore-lost"]
    assert names("crash/*lost*") == [f"{here}/lost.txt", f"{here}/vmcore-lost"]


def test_an_empty_folder_has_none() -> None:
    os.mkdir("crash")
    assert names("crash") == []


def test_no_such_file() -> None:
    assert refusal(UsageError, "vmcore") == (
        "vmcore: no such file or folder, and no file matches it as a pattern"
    )
    assert refusal(UsageError, "a\nb*\x1b[31m").startswith(r"'a\nb*\x1b[31m': no such file")


# ---- patterns


def test_patterns() -> None:
    cores = [write(f"crash/{host}/vmcore") for host in ("a", "b", "c")]
    deep = write("crash/a/x/y/vmcore")
    write("crash/.hidden/vmcore")
    assert names("crash/?/vmcore") == cores
    assert names("crash/[ab]/vmcore") == cores[:2]
    assert sorted(names("crash/**/vmcore")) == sorted([*cores, deep])
    assert names("crash/*") == [cores[0], deep, *cores[1:]], "folders that match are searched"


@pytest.mark.parametrize(
    "name",
    [
        "vmcore[1]",
        "core*?",
        " vmcore ",
        "-o",
        "köre-☃",
        "a\nb\x1b[31m",
        "core#1?x=%20",
        "m.jsonl.core",
    ],
)
def test_special_characters_in_a_name_that_exists(name: str) -> None:
    path = write(f"crash/{name}")
    write("crash/vmcore1")
    assert names(path) == [path]
    assert names(f"file://{path}") == [path]


def test_a_name_that_is_no_utf8() -> None:
    folder = os.fsencode(os.getcwd())
    for name in (b"core-\xff", b"core-\xfe"):
        with open(folder + b"/" + name, "wb"):
            pass
    sources = list_sources(["."]).sources
    assert [source.name for source in sources] == [
        os.getcwd() + r"/core-\xfe",
        os.getcwd() + r"/core-\xff",
    ]
    for source in sources:
        source.name.encode()  # can be stored
        assert os.path.exists(source.core)


def test_each_source_is_there_once() -> None:
    a, b = write("crash/vmcore-a"), write("crash/vmcore-b")
    assert names("crash/vmcore-b", "crash", "crash/*", a, f"file://{b}") == [b, a]


# ---- manifests


def manifest(*entries: Any, name: str = "fleet.jsonl") -> str:
    """Lines of JSON, or of anything."""
    lines = [entry if isinstance(entry, str) else json.dumps(entry) for entry in entries]
    return write(name, "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogatepass"))


def test_manifest(tmp_path: Path) -> None:
    path = manifest(
        {
            "core": "a/vmcore",
            "symbols": ["vmlinux", "/lib/x.ko"],
            "host": "web-1",
            "time": "2026-11-22T17:13:01Z",
            "tags": {"rack": "r1", "n": 3, "x": None},
        },
        "",
        {
            "core": "/var/crash/vmcore",
            "symbols": "vmlinux",
            "vmcoreinfo": "info.txt",
            "time": "2026-11-22T19:13:01.500+02:00",
        },
        {"core": "s3://bucket/vmcore", "time": "2026-11-22", "vmcoreinfo": "auto"},
        name="sub/fleet.jsonl",
    )
    first, second, third = list_sources([path]).sources
    assert first == Source(
        name=f"{tmp_path}/sub/a/vmcore",
        core=f"{tmp_path}/sub/a/vmcore",
        symbols=(f"{tmp_path}/sub/vmlinux", "/lib/x.ko"),
        host="web-1",
        time_us=1795367581 * MICROSECOND,
        tags={"rack": "r1", "n": "3", "x": "null"},
    )
    assert second.core == "/var/crash/vmcore"
    assert second.symbols == (f"{tmp_path}/sub/vmlinux",)
    assert second.time_us == 1795367581 * MICROSECOND + MICROSECOND // 2
    assert (first.vmcoreinfo, second.vmcoreinfo) == (None, f"{tmp_path}/sub/info.txt")
    assert third.vmcoreinfo == "auto"
    assert third.name == third.core == "s3://bucket/vmcore"
    assert third.time_us == 1795305600 * MICROSECOND, "without a zone it is UTC"


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "is not JSON: "),
        ("\ufeff{}", "is not JSON: "),
        ("[]", 'expected an object with "core": PATH'),
        ("{}", 'expected an object with "core": PATH'),
        ('{"core": ""}', 'expected an object with "core": PATH'),
        ('{"core": 5}', 'expected an object with "core": PATH'),
        (
            '{"core": "a", "hots": "x"}',
            "has the unknown key hots; the keys are core, name, symbols, vmcoreinfo, host",
        ),
        ('{"core": "a", "\\u001b": "x"}', r"has the unknown key '\x1b'; the keys are core"),
        ('{"core": "a", "symbols": [5]}', '"symbols" takes text, not [5]'),
        ('{"core": "a", "vmcoreinfo": ["a", "b"]}', '"vmcoreinfo" takes text, not ["a", "b"]'),
        ('{"core": "a", "vmcoreinfo": "http://h/i"}', '"vmcoreinfo" takes paths that every worker'),
        ('{"core": "a", "host": {"a": 1}}', '"host" takes text, not {"a": 1}'),
        ('{"core": "a", "host": ["a", "b"]}', '"host" takes text, not ["a", "b"]'),
        ('{"core": "a", "tags": ["a"]}', '"tags" takes an object, not ["a"]'),
        ('{"core": "a", "time": "yesterday"}', '"time" takes ISO 8601'),
        ('{"core": "a", "time": 1795367581}', '"time" takes ISO 8601'),
        ('{"core": "a", "time": "2026-13-01"}', '"time" takes ISO 8601'),
        ('{"core": "a\\ud800"}', "has a lone surrogate"),
        ('{"core": "a", "host": "\\udcff"}', "has a lone surrogate"),
        ('{"core": "a", "tags": {"\\udcff": "x"}}', "has a lone surrogate"),
    ],
)
def test_a_mistake_in_a_manifest_is_told_with_its_line(line: str, why: str) -> None:
    path = manifest({"core": "vmcore"}, "", line)
    assert refusal(UsageError, path).startswith(f"{path} line 3: {why}")


def test_a_manifest_may_name_files_whose_names_are_no_utf8(tmp_path: Path) -> None:
    path = manifest('{"core": "core-\\udcff", "symbols": ["v\\udcfe"]}')
    (source,) = list_sources([path]).sources
    assert source.name == rf"{tmp_path}/core-\xff"
    assert os.fsencode(source.core) == os.fsencode(tmp_path) + b"/core-\xff"
    assert os.fsencode(source.symbols[0]) == os.fsencode(tmp_path) + b"/v\xfe"


def test_a_manifest_that_is_no_text() -> None:
    path = write("fleet.jsonl", b'{"core": "\xff"}\n')
    assert refusal(InputError, path).startswith(f"{path}: cannot be read as a manifest: ")


def test_the_same_source_with_other_facts_is_refused(tmp_path: Path) -> None:
    write("vmcore")
    same = {"core": "vmcore", "host": "web-1"}
    assert len(names(manifest(same, same))) == 1
    other = refusal(UsageError, manifest(same, {"core": "vmcore", "host": "web-2"}))
    assert other == (
        f"{tmp_path}/vmcore: is given twice, with different name, symbols, vmcoreinfo, host, "
        "time or tags"
    )


# ---- URLs


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """``http.server`` on loopback: its URL."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Handler, directory=str(folder))
    )
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_http(tmp_path: Path) -> None:
    pytest.importorskip("fsspec", reason="needs the extra drgn-tools[fleet]")
    pytest.importorskip("aiohttp", reason="needs aiohttp, as fsspec does for http://")
    write("crash/a/vmcore", b"a")
    write("crash/b/vmcore", b"b")
    write("crash/b/readme.txt", b"b")
    with served(tmp_path) as url:
        assert names(f"{url}/crash/a/vmcore") == [f"{url}/crash/a/vmcore"]
        listing = list_sources([f"{url}/crash/"])
        assert [source.core for source in listing.sources] == [
            f"{url}/crash/a/vmcore",
            f"{url}/crash/b/vmcore",
        ]
        assert listing.passed_over == [f"{url}/crash/b/readme.txt"]
        assert names(f"{url}/crash/*/vmcore") == [source.core for source in listing.sources]
        assert refusal(UsageError, f"{url}/crash/*/nothing").endswith("matches nothing")
    assert refusal(InputError, f"{url}/crash/vmcore").startswith(f"{url}/crash/vmcore: ")


def test_what_is_in_a_file_that_is_a_file_system(tmp_path: Path) -> None:
    pytest.importorskip("fsspec", reason="needs the extra drgn-tools[fleet]")
    with zipfile.ZipFile("cores.zip", "w") as archive:
        for name in ("a/vmcore", "b/vmcore", "b/readme"):
            archive.writestr(name, b"x")
    there = f"{tmp_path}/cores.zip"
    both = [f"zip://a/vmcore::{there}", f"zip://b/vmcore::{there}"]
    # Relative ones are not for workers, which are elsewhere.
    assert names("zip://a/vmcore::cores.zip") == both[:1]
    assert names("zip://*/vmcore::cores.zip") == both
    assert names(f"zip://::file://{there}") == [
        f"zip://a/vmcore::file://{there}",
        f"zip://b/vmcore::file://{there}",
    ]
    assert names(f"simplecache::zip://*/vmcore::{there}") == [
        f"simplecache::{name}" for name in both
    ]
    write("text.zip", b"no archive")
    assert "not a zip file" in refusal(InputError, "zip://vmcore::text.zip")


def test_memory_file_system() -> None:
    fsspec = pytest.importorskip("fsspec", reason="needs the extra drgn-tools[fleet]")
    files = fsspec.filesystem("memory")
    files.pipe("/drgn-tools-test/vmcore", b"x")
    try:
        assert names("memory://drgn-tools-test") == ["memory:///drgn-tools-test/vmcore"]
    finally:
        files.rm("/drgn-tools-test", recursive=True)


@pytest.mark.parametrize("url", ["nosuch://bucket/vmcore", "nosuch::memory://vmcore"])
def test_a_protocol_that_nobody_knows(url: str) -> None:
    pytest.importorskip("fsspec", reason="needs the extra drgn-tools[fleet]")
    assert refusal(InputError, url) == f"{url}: Protocol not known: nosuch"


def test_a_manifest_says_more_of_what_is_in_a_folder(tmp_path: Path) -> None:
    dumps = tmp_path / "dumps"
    dumps.mkdir()
    for name in ("vmcore-a", "vmcore-b"):
        (dumps / name).touch()
    manifest = tmp_path / "hosts.jsonl"
    manifest.write_text('{"core": "dumps/vmcore-a", "host": "web1"}\n')
    for given in ([dumps, manifest], [manifest, dumps]):
        sources = list_sources(map(str, given)).sources
        assert {source.name: source.host for source in sources} == {
            str(dumps / "vmcore-a"): "web1",
            str(dumps / "vmcore-b"): None,
        }
