# SPDX-License-Identifier: LGPL-2.1-or-later
"""List the sources that a command line names: files, folders, patterns, manifests, URLs."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timezone
from typing import Any, Optional

import msgspec

from ...errors import InputError, UsageError
from ...program.core_file import AUTO, compression_of, open_regular, shown
from ...program.elf import ET_CORE
from ...program.kdump import KDUMP_MAGICS
from ...program.redact import redacted, with_urls_redacted
from ...program.unpack import packed_start
from ...program.url import without_query, without_secrets
from .remote import complete_url, errors_of, file_system, has_query, is_url, url_of

__all__ = ("Listing", "Source", "list_sources")

_NOT_A_CORE = (".txt", ".log", ".dmesg", ".json", ".jsonl", ".md", ".html", ".vmlinux", ".ko")
"""Endings of files that are not cores even if their names contain ``core`` or ``dump``."""
_MANIFEST = (".jsonl", ".ndjson")


class Source(msgspec.Struct, frozen=True):
    """One kernel to audit."""

    name: str
    """Name in the dataset: absolute path, URL without user info and query, or ``live:HOST@TIME``."""
    core: str
    """Path or URL of the core; empty for a running kernel. A URL may hold a password or a signature."""
    symbols: tuple[str, ...] = ()
    """Paths of vmlinux and modules with DWARF."""
    host: Optional[str] = None
    """Name of the machine; ``None`` to take it from the core."""
    time_us: Optional[int] = None
    """Time of the crash in microseconds since 1970; ``None`` to take it from the core or its file."""
    tags: Mapping[str, str] = msgspec.field(default_factory=dict)
    """Other facts, as the manifest has them."""
    worker: Optional[str] = None
    """Address of the only Dask worker that can audit it; ``None`` if any can."""
    vmcoreinfo: Optional[str] = None
    """Path of a file with VMCOREINFO, or ``auto``, as for :func:`.program.open.open_program`."""

    def __repr__(self) -> str:
        # Without the URL: it may hold a secret.
        return f"Source({self.name!r})"


class Listing(msgspec.Struct):
    """The sources of a run."""

    sources: list[Source] = msgspec.field(default_factory=list)
    """The sources, each once, in the order given."""
    passed_over: list[str] = msgspec.field(default_factory=list)
    """Files in folders that were skipped: by their names and first bytes they are not cores."""


def list_sources(given: Iterable[str]) -> Listing:
    """Return the sources that the arguments of ``fleet run`` name.

    :param given: Paths of cores, folders (which are searched), shell patterns, manifests
        (``*.jsonl``), and fsspec URLs (also of folders, also with patterns).
    :raises UsageError: If an argument is none of these, if a source is given twice with
        different facts, or if two sources have the same name.
    :raises InputError: If a folder, manifest or URL cannot be read.
    """
    passed_over: list[str] = []
    sources: dict[str, Source] = {}
    for text in given:
        for source in _sources_of(text, passed_over):
            before = sources.get(source.core)
            if before is None or _says_nothing(before):
                sources[source.core] = source
            elif before != source and not _says_nothing(source):
                raise UsageError(
                    f"{shown(source.name)}: is given twice, with different name, symbols, "
                    "vmcoreinfo, host, time or tags"
                )
    _check_names(sources.values())
    return Listing(list(sources.values()), passed_over)


def _says_nothing(source: Source) -> bool:
    # A folder and a manifest of some cores in it may be given together.
    return source == Source(_name(source.core), source.core)


def _check_names(sources: Iterable[Source]) -> None:
    names: set[str] = set()
    for source in sources:
        if source.name in names:
            raise UsageError(f"{shown(source.name)}: {_SAME_NAME}")
        names.add(source.name)


_SAME_NAME = (
    "is the name of two sources, because a name does not have the user info and query of a URL; "
    'give one of them, or give each a "name" in a manifest'
)


def _name(core: str) -> str:
    return _printable(without_secrets(core) if is_url(core) else core)


def _sources_of(text: str, passed_over: list[str]) -> Iterator[Source]:
    if text.startswith("file://"):
        text = text[len("file://") :]  # as in fsspec: no %20, and # is part of the name
    if is_url(text):
        return _of_urls(text, passed_over)
    if os.path.isdir(text):
        return _of_folder(text, passed_over)
    if os.path.exists(text):
        return _of_manifest(text) if text.endswith(_MANIFEST) else iter((_local(text),))
    matches = sorted(glob.glob(text, recursive=True))
    if not matches:
        raise UsageError(
            f"{shown(text)}: no such file or folder, and no file matches it as a pattern"
        )
    # A broken link also matches. Its record will say that it is broken.
    return (
        source
        for match in matches
        for source in (
            _sources_of(match, passed_over) if os.path.exists(match) else (_local(match),)
        )
    )


def _local(path: str) -> Source:
    path = os.path.abspath(path)
    return Source(name=_name(path), core=path)


def _printable(path: str) -> str:
    # A name whose bytes are not UTF-8 cannot be stored as text.
    return os.fsencode(path).decode("utf-8", "backslashreplace")


# ---- folders


def _of_folder(folder: str, passed_over: list[str]) -> Iterator[Source]:
    def cannot(error: OSError) -> None:
        raise InputError(f"{shown(str(error.filename))}: {error.strerror}") from error

    for parent, folders, files in os.walk(folder, onerror=cannot):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = os.path.join(parent, name)
            is_there = os.path.exists(path)  # False for a broken link: its record will say so
            if name.startswith(".") or (is_there and not os.path.isfile(path)):
                continue
            if _is_named_like_a_core(name) or (is_there and _begins_like_a_core(path)):
                yield _local(path)
            else:
                passed_over.append(path)


def _is_named_like_a_core(name: str) -> bool:
    # The file may be empty or damaged: its record will say so.
    lower = name.lower()
    return ("core" in lower or "dump" in lower) and not lower.endswith(_NOT_A_CORE)


def _begins_like_a_core(path: str) -> bool:
    try:
        with open_regular(path) as file:
            start = file.read(17)
        if compression_of(path) is not None:
            start = packed_start(path, 17) or b""
    except (InputError, OSError):  # unreadable: its record will say so
        return True
    return start.startswith(KDUMP_MAGICS) or (
        start.startswith(b"\x7fELF") and start[16:] == bytes((ET_CORE,))
    )


# ---- manifests


def _of_manifest(path: str) -> Iterator[Source]:
    folder = os.path.dirname(os.path.abspath(path))
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield _of_line(line, folder, f"{shown(path)} line {number}")
    except (OSError, UnicodeDecodeError) as e:
        raise InputError(f"{shown(path)}: cannot be read as a manifest: {e}") from e


_KEYS = ("core", "name", "symbols", "vmcoreinfo", "host", "time", "tags")


def _of_line(line: str, folder: str, where: str) -> Source:
    try:
        entry = json.loads(line)
    except ValueError as e:
        raise UsageError(f"{where}: is not JSON: {e}") from e
    if not isinstance(entry, dict) or not isinstance(entry.get("core"), str) or not entry["core"]:
        raise UsageError(
            f'{where}: expected an object with "core": PATH, and maybe {", ".join(_KEYS[1:])}'
        )
    if not _is_text(entry):
        raise UsageError(f"{where}: has a lone surrogate (\\ud800 to \\udfff)")
    unknown = sorted(set(entry) - set(_KEYS))
    if unknown:
        raise UsageError(
            f"{where}: has the unknown key {shown(with_urls_redacted(unknown[0]))}; the keys are {', '.join(_KEYS)}"
        )
    core = entry["core"]
    symbols = _texts(entry, "symbols", where)
    vmcoreinfo = next(iter(_texts(entry, "vmcoreinfo", where)), None)
    for key, paths in (("symbols", symbols), ("vmcoreinfo", [vmcoreinfo or ""])):
        if any("://" in path for path in paths):
            raise UsageError(f'{where}: "{key}" takes paths that every worker can read, no URLs')
    if not is_url(core):
        if "://" in core:  # the URL would be stored as a path
            raise UsageError(f'{where}: "core" is neither a path nor a URL (SCHEME://...)')
        core = os.path.abspath(os.path.join(folder, core))
    host = next(iter(_texts(entry, "host", where)), None)
    return Source(
        name=_name_given(entry, core, where),
        core=core,
        symbols=tuple(os.path.join(folder, name) for name in symbols),
        host=None if host is None else redacted(host, core, by_user=True),
        time_us=_time_us(entry.get("time"), where),
        # Someone may have copied the URL into a tag.
        tags={
            redacted(key, core, by_user=True): redacted(tag, core, by_user=True)
            for key, tag in _tags(entry.get("tags"), where).items()
        },
        vmcoreinfo=vmcoreinfo
        if vmcoreinfo in (None, "", AUTO)
        else os.path.join(folder, vmcoreinfo),
    )


def _name_given(entry: Mapping[str, Any], core: str, where: str) -> str:
    name = next(iter(_texts(entry, "name", where)), None)
    if name is None:
        return _name(core)
    if not name or redacted(with_urls_redacted(name), core, by_user=True) != name:
        raise UsageError(
            f'{where}: "name" takes text that may be stored: no user info and no query of a URL'
        )
    return name


def _is_text(entry: Mapping[str, Any]) -> bool:
    # JSON may contain surrogates, which cannot be stored as text. In paths they stand for bytes
    # that are not UTF-8, as everywhere in Python.
    paths = ("core", "symbols", "vmcoreinfo")
    try:
        os.fsencode(json.dumps([entry.get(key) for key in paths], ensure_ascii=False))
        rest = {key: value for key, value in entry.items() if key not in paths}
        json.dumps(rest, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _texts(entry: Mapping[str, Any], key: str, where: str) -> list[str]:
    value = entry.get(key)
    values = [] if value is None else value if isinstance(value, list) else [value]
    if not all(isinstance(text, str) for text in values) or (
        key in ("name", "host", "vmcoreinfo") and len(values) > 1
    ):
        raise UsageError(f'{where}: "{key}" takes text, not {_excerpt(value)}')
    return values


def _excerpt(value: Any) -> str:
    return with_urls_redacted(json.dumps(value))[:60]


def _tags(value: Any, where: str) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UsageError(f'{where}: "tags" takes an object, not {_excerpt(value)}')
    return {key: tag if isinstance(tag, str) else json.dumps(tag) for key, tag in value.items()}


def _time_us(value: Any, where: str) -> Optional[int]:
    if value is None:
        return None
    try:
        # Python 3.9 does not know the Z.
        time = datetime.fromisoformat(value.replace("Z", "+00:00"))
    except (AttributeError, ValueError) as e:
        raise UsageError(
            f'{where}: "time" takes ISO 8601 (2026-11-22T17:13:01Z), not {_excerpt(value)}'
        ) from e
    if time.tzinfo is None:
        time = time.replace(tzinfo=timezone.utc)
    return round(time.timestamp() * 1_000_000)


# ---- URLs


def _of_urls(url: str, passed_over: list[str]) -> Iterator[Source]:
    url = complete_url(url)
    if has_query(url):
        yield Source(name=_name(url), core=url)
        return
    with errors_of(url):
        files, path = file_system(url)
        if glob.has_magic(path):
            paths = sorted(files.glob(path))
            if not paths:
                raise UsageError(f"{shown(url)}: matches nothing")
        elif files.isdir(path):
            found = sorted(files.find(path))
            paths = [name for name in found if _is_named_like_a_core(name.rpartition("/")[2])]
            passed_over.extend(map(without_secrets, sorted(set(found) - set(paths))))
        else:
            paths = [path]
        cores = [url_of(files, path, url) for path in paths]
    for core in cores:
        # If the user gave no @, an @ is part of the path.
        name = without_secrets(core) if "@" in url else without_query(core)
        yield Source(name=_printable(name), core=core)
