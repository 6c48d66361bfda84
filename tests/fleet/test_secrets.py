# SPDX-License-Identifier: LGPL-2.1-or-later
"""Passwords and signatures in the URLs of sources: they are used, and nowhere stored or shown."""

from __future__ import annotations

import base64
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import pytest

pytest.importorskip("distributed", reason="needs the extra drgn-tools[fleet]")
pytest.importorskip("duckdb", reason="needs the extra drgn-tools[fleet]")

from distributed import Client

from drgn_tools.commands.main import main
from drgn_tools.data import demo_vmcore
from drgn_tools.errors import EXIT_PARTIAL, EXIT_USAGE, DrgnToolsError, InputError, UsageError
from drgn_tools.fleet.run.fetch import Core
from drgn_tools.fleet.run.job import Cause, Job, Limits
from drgn_tools.fleet.run.record import failed, of_source
from drgn_tools.fleet.run.remote import errors_of
from drgn_tools.fleet.run.source import Source, list_sources
from drgn_tools.fleet.run.submitted import Submitted

from ..support.fleet_processes import ROOT, records

USER = "alice-of-ops"
PASSWORD = "hunter2/s3cr3t@home"
SIGNATURES = ("c2lnbmF0dXJl/T25l+A==", "c2lnbmF0dXJl/VHdv+B==", "c2lnbmF0dXJl/V3Jvbmc=")
"""Two that the server takes, and a wrong one."""
PIECES = (USER, "hunter2", "s3cr3t", "c2lnbmF0dXJl", "T25l", "VHdv", "V3Jvbmc", "X-Amz-Sig")


def secrets_in(text: str) -> list[str]:
    return [piece for piece in PIECES if piece in text]


# ---- names


def manifest(folder: Path, *entries: Any) -> str:
    path = folder / "fleet.jsonl"
    path.write_text("".join(f"{json.dumps(entry)}\n" for entry in entries))
    return str(path)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://user:secret@127.0.0.1/vmcore", "http://127.0.0.1/vmcore"),
        ("s3://key:se/cr@et@host/bucket", "s3://host/bucket"),
        ("ftp://user:p@ss/w@host/x", "ftp://.../host/x"),
        ("https://host/vmcore?X-Amz-Signature=1", "https://host/vmcore"),
        ("s3://b/vmcore?versionId=a1&sig=1", "s3://b/vmcore?versionId=a1"),
    ],
)
def test_the_name_of_a_source_has_no_secret(url: str, name: str, tmp_path: Path) -> None:
    (source,) = list_sources([manifest(tmp_path, {"core": url})]).sources
    assert source == Source(name, url)
    assert repr(url) not in repr(source)


def test_a_signed_url_on_the_command_line_is_one_file_and_nobody_is_asked() -> None:
    url = "http://127.0.0.1:1/vmcore?X-Amz-Signature=a[b]*"
    assert list_sources([url, url]).sources == [Source("http://127.0.0.1:1/vmcore", url)]


def test_two_sources_of_one_name_are_refused_until_a_manifest_names_them(tmp_path: Path) -> None:
    one, other = (f"https://host/get?id={number}&sig=5{number}" for number in (1, 2))
    with pytest.raises(UsageError) as refused:
        list_sources([one, other])
    assert str(refused.value) == (
        "https://host/get: is the name of two sources, because a name does not have the user info and "
        'query of a URL; give one of them, or give each a "name" in a manifest'
    )
    named = [{"core": one, "name": "get 1"}, {"core": other, "name": "get 2"}]
    assert list_sources([one, manifest(tmp_path, *named), one]).sources == [
        Source("get 1", one),
        Source("get 2", other),
    ]
    same = [{"core": one, "name": "get"}, {"core": other, "name": "get"}]
    with pytest.raises(UsageError, match=r"^get: is the name of two sources"):
        list_sources([manifest(tmp_path, *same)])


def test_a_name_is_no_secret(tmp_path: Path) -> None:
    url = f"https://{USER}:{quote(PASSWORD, safe='')}@host/get?X-Amz-Signature={SIGNATURES[0]}"
    for name in (url, f"get {PASSWORD}", f"get {SIGNATURES[0]}", "", "http://host/get?id=1"):
        with pytest.raises(UsageError) as refused:
            list_sources([manifest(tmp_path, {"core": url, "name": name})])
        assert '"name" takes text that may be stored' in str(refused.value)
        assert not secrets_in(str(refused.value))


def test_facts_of_a_manifest_have_no_secret(tmp_path: Path) -> None:
    url = f"https://{USER}:{quote(PASSWORD, safe='')}@host/vmcore?X-Amz-Signature={SIGNATURES[0]}"
    entry = {"core": url, "host": "web1", "tags": {"from": url, "by": PASSWORD, "rack": "r1"}}
    (source,) = list_sources([manifest(tmp_path, entry)]).sources
    assert source.core == url
    assert source.host == "web1"
    assert source.tags == {"from": "https://host/vmcore", "by": "...", "rack": "r1"}
    assert not secrets_in(str(of_source(source)))


@pytest.mark.parametrize(
    "entry",
    [
        {"core": f"no scheme://{USER}:hunter2@host/vmcore"},
        {"core": "vmcore", "symbols": [f"http://{USER}:hunter2@host/vmlinux?X-Amz-Sig=1"]},
        {"core": "vmcore", "host": [f"http://{USER}:hunter2@host/", "b"]},
        {"core": "vmcore", "time": f"http://{USER}:hunter2@host/"},
        {"core": "vmcore", "tags": [f"http://{USER}:hunter2@host/?X-Amz-Sig=1"]},
        {"core": "vmcore", f"http://{USER}:hunter2@host/": 1},
    ],
)
def test_a_mistake_in_a_manifest_is_told_without_secrets(entry: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=" line 1: ") as refused:
        list_sources([manifest(tmp_path, entry)])
    assert not secrets_in(str(refused.value))


@pytest.mark.parametrize(
    "url",
    [
        f"nosuch://{USER}:hunter2/s3cr3t@host/vmcore?X-Amz-Sig=1",
        f"nosuch://{USER}:hunter2@host/*/vmcore",
        f" http://{USER}:hunter2@host/vmcore?X-Amz-Sig=1",
    ],
)
def test_a_mistake_on_the_command_line_is_told_without_secrets(url: str, tmp_path: Path) -> None:
    with pytest.raises(DrgnToolsError) as refused:
        (source,) = list_sources([url]).sources
        Core(source.core, str(tmp_path)).content_id()  # a URL with a query is read here only
    assert not secrets_in(str(refused.value))


def test_arguments_that_nobody_takes_are_told_without_secrets(
    capsys: pytest.CaptureFixture[str],
) -> None:
    url = f"http://{USER}:hunter2@host/vmcore?X-Amz-Sig=1"
    assert main(["fleet", "report", "dataset", url]) == EXIT_USAGE
    assert "http://host/vmcore" in (said := capsys.readouterr().err)
    assert not secrets_in(said)
    assert main(["tasks", "-c", url]) != 0
    assert "http://host/vmcore: is a URL, not a file" in (said := capsys.readouterr().err)
    assert not secrets_in(said)


# ---- what leaves a worker


def source_of(url: str) -> Source:
    return Source("https://host/vmcore", url)


URL = f"https://{USER}:{quote(PASSWORD, safe='')}@host/vmcore?X-Amz-Signature={SIGNATURES[0]}"


def test_the_error_of_a_library() -> None:
    told = f"403 Forbidden for url: {URL} ({USER} said {PASSWORD}, {quote(SIGNATURES[0])})"
    with pytest.raises(InputError) as failure, errors_of(URL):
        raise ValueError(told)
    assert str(failure.value) == (
        "https://host/vmcore: 403 Forbidden for url: https://host/vmcore (... said ..., ...)"
    )


def test_the_line_of_a_failure() -> None:
    # Also that of a process that died: it is the last that a library wrote to stderr.
    line = f"https://host/vmcore: its process was killed by SIGABRT: bad {URL}"
    record = failed(source_of(URL), Cause.CRASHED, 134, line)
    assert record["line"] == (
        "https://host/vmcore: its process was killed by SIGABRT: bad https://host/vmcore"
    )


def test_what_dask_shows_of_a_task() -> None:
    class Recording(Client):  # type: ignore[misc]
        def __init__(self) -> None:
            self.submitted: list[Any] = []

        def submit(self, *args: Any, **options: Any) -> Any:
            self.submitted.append((args, options))
            return self

        def add_done_callback(self, callback: Any) -> None:
            pass

        def __del__(self) -> None:
            pass

        __hash__ = object.__hash__

    from dask.utils import funcname

    client = Recording()
    submitted = Submitted(client, lambda job, limits, plugin: job, Limits(), "plugin")
    submitted.submit(Job(source_of(URL), "key"))
    (((function, *arguments), options),) = client.submitted
    # Dask logs the name and the arguments of a task that fails.
    assert not secrets_in(f"{funcname(function)} {arguments} {options}")
    assert function()["source"]["core"] == URL


# ---- a run


def core_of(url: str) -> tuple[int, bytes]:
    """Status and content of what the server has under *url*."""
    parts = urlsplit(url)
    (signature,) = parse_qs(parts.query).get("X-Amz-Signature", [""])
    if signature not in SIGNATURES[:2]:
        return 403, b""
    if parts.path == "/crash/vmcore":
        return 200, demo_vmcore().read_bytes()
    return 200, b"no core"


@contextmanager
def signed_server() -> Iterator[int]:
    """A server on loopback that wants a password and a signature: its port."""
    wanted = f"Basic {base64.b64encode(f'{USER}:{PASSWORD}'.encode()).decode()}"

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(with_content=False)

        def do_GET(self) -> None:
            self._answer(with_content=True)

        def _answer(self, with_content: bool) -> None:
            status, content = core_of(self.path)
            if self.headers["Authorization"] != wanted:
                status, content = 401, b""
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", f'"{len(content)}"')
            self.end_headers()
            if with_content:
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


FILE_SYSTEM = '''
import sys
from base64 import b64encode
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit
from urllib.request import Request, urlopen

from fsspec import AbstractFileSystem


class Talkative(AbstractFileSystem):
    """HTTP, with all that it knows in its errors and on stderr."""

    protocol = "talkative"
    cachable = False

    @classmethod
    def _strip_protocol(cls, path):
        return path

    def _ask(self, method, url):
        parts = urlsplit(url)
        user_info, _, host = parts.netloc.rpartition("@")
        basic = b64encode(unquote(user_info).encode()).decode()
        plain = f"http://{host}{parts.path}?{parts.query}"
        print("asks", url, basic, file=sys.stderr, flush=True)
        try:
            return urlopen(Request(plain, method=method, headers={"Authorization": f"Basic {basic}"}))
        except HTTPError as e:
            if "die" in parts.path:
                raise SystemExit(f"cannot {method} {url}")
            raise ValueError(f"{e.code} for {url!r}, {unquote(parts.query)}, {basic}, {parts}")

    def info(self, path, **_):
        headers = self._ask("HEAD", path).headers
        return {"name": path, "type": "file", "size": int(headers["Content-Length"]), "ETag": headers["ETag"]}

    def get_file(self, rpath, lpath, **_):
        with open(lpath, "wb") as file:
            file.write(self._ask("GET", rpath).read())
'''


def fsspec_plugin(folder: Path) -> None:
    """A file system that fsspec finds in *folder* if this is in PYTHONPATH."""
    (folder / "talkative.py").write_text(FILE_SYSTEM)
    about = folder / "talkative-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: talkative\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[fsspec.specs]\ntalkative = talkative.Talkative\n")


def drgn_tools(plugins: Path, *arguments: str) -> tuple[int, str]:
    """Run a command: its exit code, and what it wrote to stdout and stderr."""
    python_path = os.pathsep.join((str(ROOT), str(plugins), os.environ.get("PYTHONPATH", "")))
    done = subprocess.run(
        [sys.executable, "-m", "drgn_tools", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": python_path},
        check=False,
    )
    return done.returncode, done.stdout.decode()


def everything_in(dataset: Path) -> str:
    """All names, bytes and columns of a dataset as text."""
    import duckdb

    said = []
    for path in dataset.rglob("*"):
        said.append(str(path))
        if path.is_file():
            said.append(path.read_bytes().decode("latin-1"))
        if path.suffix == ".parquet":
            with duckdb.connect() as database:
                found = database.execute(f"SELECT COLUMNS(*)::VARCHAR FROM read_parquet('{path}')")
                said.append(repr(found.fetchall()))
    return "\n".join(said)


@pytest.mark.parametrize("scheme", ["talkative", "http"])
def test_a_run(scheme: str, tmp_path: Path) -> None:
    if scheme == "http":
        pytest.importorskip("aiohttp", reason="needs aiohttp, as fsspec does for http://")
    plugins, dataset, page = tmp_path / "plugins", tmp_path / "dataset", tmp_path / "page.html"
    plugins.mkdir()
    fsspec_plugin(plugins)
    with signed_server() as port:
        host = f"127.0.0.1:{port}"

        def url(path: str, signature: str) -> str:
            user_info = f"{USER}:{quote(PASSWORD, safe='')}"
            query = f"versionId=v1&X-Amz-Signature={quote(signature, safe='')}"
            return f"{scheme}://{user_info}@{host}{path}?{query}"

        def run(signature: str) -> str:
            sources = (
                manifest(
                    tmp_path,
                    {"core": url("/crash/vmcore", signature), "tags": {"of": PASSWORD}},
                    {"core": url("/crash/vmcore-text", signature), "name": "text"},
                ),
                url("/crash/vmcore-refused", SIGNATURES[2]),
                url("/crash/vmcore-die", SIGNATURES[2]),
            )
            options = ("--workers", "1", "--retries", "0", "--log-level", "debug")
            code, said = drgn_tools(plugins, "fleet", "run", *sources, "-o", str(dataset), *options)
            assert code == EXIT_PARTIAL, said
            return said

        first = run(SIGNATURES[0])
        rows = {row["source"]: row for row in records(dataset)}
        base = f"{scheme}://{host}/crash"
        assert {name: row["status"] for name, row in rows.items()} == {
            f"{base}/vmcore?versionId=v1": "audited",
            "text": "failed",
            f"{base}/vmcore-refused?versionId=v1": "failed",
            f"{base}/vmcore-die?versionId=v1": "failed",
        }, first
        assert "is text" in rows["text"]["line"]
        if scheme == "talkative":
            assert "403 for" in rows[f"{base}/vmcore-refused?versionId=v1"]["line"]
        second = run(SIGNATURES[1])  # the URLs were signed again
    assert "2 unchanged" in second
    assert len(records(dataset)) == len(rows)
    code, report = drgn_tools(plugins, "fleet", "report", str(dataset))
    assert code == 0
    code, said = drgn_tools(plugins, "fleet", "report", str(dataset), "--html", str(page))
    assert code == 0
    for text in (first, second, report, said, page.read_text(), everything_in(dataset)):
        assert not secrets_in(text)
        assert base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode() not in text
    code, said = drgn_tools(
        plugins, "fleet", "forget", str(dataset), f"{scheme}://{USER}:hunter2@{host}/nothing"
    )
    assert code == EXIT_USAGE
    assert not secrets_in(said)
