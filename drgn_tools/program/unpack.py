# SPDX-License-Identifier: LGPL-2.1-or-later
"""Unpack a compressed core once, into the cache folder (:mod:`.core_cache`).

Its name there is a hash of the core's path, size, time, and first and last bytes. Runs of zeros become holes.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, suppress
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO, Optional, Union

from ..errors import InputError
from .core_cache import cache_folder, cached_core, remove_abandoned, size_limit, trim_cache
from .core_file import COPY_AGAIN, compression_of, open_regular, shown

__all__ = ("Progress", "packed_start", "unpacked")

Progress = Callable[[int, int], None]
"""Called now and then with the number of bytes that are read, and the total."""

Chunks = Generator[bytes, None, None]
"""The contents of a packed file, in chunks. Closing the generator also ends the program that unpacks."""

_CHUNK_BYTES = 1 << 20
_HOLE_BYTES = 1 << 16
_ZEROS = bytes(_HOLE_BYTES)
_KEY_BYTES = 1 << 16
_MAX_BYTES = 1 << 44
"""16 TiB: more than any machine's memory, and the largest file on ext4."""
_SPARE_BYTES = 64 << 20
"""How much is left free on the disk."""


_OTHER_CACHE = "set XDG_CACHE_HOME to a folder with room for it, or unpack it yourself"


class _CorruptError(Exception):
    pass


def unpacked(
    path: str,
    progress: Optional[Progress] = None,
    into: Optional[Union[str, os.PathLike[str]]] = None,
) -> Path:
    """Return the path of the unpacked core: *path* itself if it is not compressed.

    :param progress: called while it is unpacked
    :param into: existing folder to unpack into, instead of the cache folder
    :raises InputError: if it cannot be read, is damaged or cut short, there is
        no room for it, or nothing on this machine can unpack zstd
    :raises UsageError: if ``DRGN_TOOLS_CACHE_SIZE`` is not a size
    """
    compression = compression_of(path)
    if compression is None:
        return Path(path)
    key = _key(path)
    if into is not None:
        folder, remedy = Path(into), "unpack it yourself"
        return cached_core(folder, key) or _unpack(path, compression, folder, key, remedy, progress)
    folder, limit_bytes = cache_folder(), size_limit()
    found = cached_core(folder, key)
    if found is None:
        found = _unpack(path, compression, folder, key, _OTHER_CACHE, progress)
        trim_cache(folder, limit_bytes, found)
    return found


def packed_start(path: str, size: int) -> Optional[bytes]:
    """Return the first bytes of the contents of a packed file. Little more is unpacked.

    :param size: how many bytes at most
    :return: fewer if the contents are shorter, ``None`` if it is not packed or cannot be unpacked
    :raises InputError: if the file cannot be read
    """
    compression = compression_of(path)
    if compression is None:
        return None
    with open_regular(path) as packed:
        start = b""
        try:
            with closing(_READERS[compression](packed)) as chunks:  # also ends the unpacker
                for chunk in chunks:
                    start += chunk
                    if len(start) >= size:
                        break
        except (_CorruptError, InputError, MemoryError):  # InputError: nothing here can unpack it
            return None
        return start[:size]


def _key(path: str) -> str:
    # Identify the core without reading all of it.
    identity = hashlib.sha256()
    with open_regular(path) as file:
        status = os.fstat(file.fileno())
        identity.update(os.fsencode(os.path.realpath(path)))
        identity.update(f"\0{status.st_size}\0{status.st_mtime_ns}".encode())
        identity.update(file.read(_KEY_BYTES))
        file.seek(max(0, status.st_size - _KEY_BYTES))
        identity.update(file.read(_KEY_BYTES))
    return identity.hexdigest()[:32]


def _unpack(
    path: str,
    compression: str,
    folder: Path,
    key: str,
    remedy: str,
    progress: Optional[Progress],
) -> Path:
    with open_regular(path) as packed:
        chunks = _chunks(packed, path, compression)
        return _write(_reported(chunks, packed, progress), path, folder, key, remedy)


def _chunks(packed: BinaryIO, path: str, compression: str) -> Iterator[bytes]:
    # Errors are converted here, because the code that writes the contents handles the same classes.
    try:
        yield from _READERS[compression](packed)
    except _CorruptError as e:
        raise InputError(f"{shown(path)}: is cut short or damaged: {e}; {COPY_AGAIN}") from e
    except OSError as e:
        raise InputError(f"{shown(path)}: cannot be read: {e.strerror or e}") from e
    except MemoryError as e:  # the file says how large the dictionary is
        raise InputError(f"{shown(path)}: cannot be unpacked: there is not enough memory") from e


def _write(chunks: Iterator[bytes], path: str, folder: Path, key: str, remedy: str) -> Path:
    # Write to a temporary file first, so that no other process finds half a core.
    unfinished: Optional[str] = None
    try:
        remove_abandoned(folder)
        fd, unfinished = tempfile.mkstemp(prefix="unpacking-", dir=folder)
        with open(fd, "wb") as out:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(out, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _write_sparsely(chunks, out)
            out.flush()
            target = folder / f"{key}-{os.path.getsize(unfinished)}.core"
            os.replace(unfinished, target)
        unfinished = None
        return target
    except OSError as e:
        raise InputError(
            f"{shown(path)}: cannot be unpacked into {shown(str(folder))}: {e.strerror or e}; {remedy}"
        ) from e
    finally:
        if unfinished is not None:
            with suppress(OSError):
                os.unlink(unfinished)


def _reported(
    chunks: Iterator[bytes], packed: BinaryIO, progress: Optional[Progress]
) -> Iterator[bytes]:
    total = os.fstat(packed.fileno()).st_size
    for chunk in chunks:
        if progress is not None:
            # The position of the descriptor: a child process moves it, too.
            progress(os.lseek(packed.fileno(), 0, os.SEEK_CUR), total)
        yield chunk


def _write_sparsely(chunks: Iterator[bytes], out: BinaryIO) -> None:
    total = 0
    for chunk in chunks:
        free = os.statvfs(out.fileno())
        if free.f_bavail * free.f_frsize < len(chunk) + _SPARE_BYTES or total > _MAX_BYTES:
            raise OSError(0, f"no room left after {total >> 20} MiB")
        for at in range(0, len(chunk), _HOLE_BYTES):
            block = chunk[at : at + _HOLE_BYTES]
            if block == _ZEROS[: len(block)]:
                out.seek(len(block), os.SEEK_CUR)
            else:
                out.write(block)
        total += len(chunk)
    out.truncate(total)


def _gzip_chunks(packed: BinaryIO) -> Chunks:
    import gzip
    import zlib

    try:
        with gzip.open(packed) as file:
            yield from iter(lambda: file.read(_CHUNK_BYTES), b"")
    except (EOFError, gzip.BadGzipFile, zlib.error) as e:
        raise _CorruptError(e) from e


def _xz_chunks(packed: BinaryIO) -> Chunks:
    import lzma

    try:
        with lzma.open(packed) as file:
            yield from iter(lambda: file.read(_CHUNK_BYTES), b"")
    except (EOFError, lzma.LZMAError) as e:
        raise _CorruptError(e) from e


def _zstd_chunks(packed: BinaryIO) -> Chunks:
    # Unpack with Python itself since 3.14, a package, or the zstd program.
    if find_spec("compression") and find_spec("compression.zstd"):
        return _stdlib_zstd_chunks(packed)
    if find_spec("zstandard"):
        return _zstandard_chunks(packed)
    if shutil.which("zstd"):
        return _zstd_program_chunks(packed)
    raise InputError(
        f"{shown(packed.name)}: is packed with zstd, and nothing that can unpack it is installed: "
        "install the zstd program, or pip install zstandard"
    )


def _stdlib_zstd_chunks(packed: BinaryIO) -> Chunks:
    zstd = import_module("compression.zstd")
    try:
        with zstd.open(packed) as file:
            yield from iter(lambda: file.read(_CHUNK_BYTES), b"")
    except (EOFError, zstd.ZstdError) as e:
        raise _CorruptError(e) from e


# Package zstandard treats the end of a truncated frame like that of a complete one.
# So we add a frame of our own, and check that its contents come out last. They are
# one byte, 16 times, which looks different if the frame is passed through raw.
_END = b"\xe5" * 16
_END_FRAME = b"\x28\xb5\x2f\xfd\x20\x10\x83\x00\x00\xe5"


class _WithEndFrame:
    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._rest = _END_FRAME

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        if not data:
            data, self._rest = self._rest, b""
        return data


def _zstandard_chunks(packed: BinaryIO) -> Chunks:
    zstandard = import_module("zstandard")
    reader = zstandard.ZstdDecompressor().stream_reader(
        _WithEndFrame(packed), read_across_frames=True
    )
    held = b""
    try:
        for chunk in iter(lambda: reader.read(_CHUNK_BYTES), b""):
            held += chunk
            yield held[: -len(_END)]
            held = held[-len(_END) :]
    except zstandard.ZstdError as e:
        raise _CorruptError(e) from e
    if held != _END:
        raise _CorruptError("it ends within a frame")


def _zstd_program_chunks(packed: BinaryIO) -> Chunks:
    with subprocess.Popen(
        ["zstd", "-dcq"], stdin=packed, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as zstd:
        assert zstd.stdout is not None
        assert zstd.stderr is not None
        try:
            yield from iter(partial(zstd.stdout.read, _CHUNK_BYTES), b"")
            complaint = zstd.stderr.read(4096).decode(errors="replace").strip()
        except BaseException:
            zstd.kill()
            raise
    if zstd.returncode:
        raise _CorruptError(complaint.rpartition(":")[2].strip() or "zstd refuses it")


_READERS: dict[str, Callable[[BinaryIO], Chunks]] = {
    "gzip": _gzip_chunks,
    "xz": _xz_chunks,
    "zstd": _zstd_chunks,
}
