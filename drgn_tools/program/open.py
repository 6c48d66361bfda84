# SPDX-License-Identifier: LGPL-2.1-or-later
"""Open a vmcore, the running kernel or a QEMU guest as an ordinary drgn Program.

Types and symbols come from the kernel's own BTF and kallsyms, or from DWARF if a vmlinux is
given. Nothing here searches for debuginfo: that is slow, may use the network, and drgn itself does
it. (In its REPL, DWARF that drgn found goes first: see :mod:`.builtin_types`.)
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, BinaryIO, Optional, TypeVar, Union

import msgspec
from drgn import Architecture, BadDataError, FaultError, Platform, Program, ProgramFlags

from ..arch.machines import ARCHES, UNDERSTOOD
from ..cache_key import cache_key
from ..debuginfo.vmcoreinfo import (
    keep_vmcoreinfo,
    kernel_offset,
    symbol_among,
    vmcoreinfo,
    vmcoreinfo_lines,
)
from ..errors import InputError, TypesError, UsageError
from .builtin_types import use_builtin_types
from .core_file import (
    AUTO,
    COPY_AGAIN,
    NO_VMCOREINFO,
    OTHER_VMCOREINFO,
    CoreFile,
    check_core,
    compression_of,
    open_regular,
    path_given,
    shown,
)
from .core_memory import correct_core_memory
from .drgn_modules import create_modules
from .dwarf import is_kernel_image, linked_address, load_dwarf, load_modules
from .find_vmcoreinfo import stub, vmcoreinfo_in_memory, vmcoreinfo_of_symbol
from .vmcoreinfo_fit import fits, has_idle_task, misfit

if TYPE_CHECKING:
    from .unpack import Progress

__all__ = ("input_error_if_vanished", "open_program", "opened_here", "require_kernel", "source_of")

Path = Union[str, "os.PathLike[str]"]
T = TypeVar("T")

logger = logging.getLogger("drgn_tools")

_CACHE_KEY = cache_key(__name__)
_HELD_KEY = f"{_CACHE_KEY}.held"
"""The file that keeps an unpacked core in the cache folder."""
_MAX_TRIES = 5
"""How often a core is unpacked, if other processes remove it at once."""
_MAX_VMCOREINFO_BYTES = 1 << 20
_WHITE_SPACE = b" \t\r\n"
_PAGE_BYTES = 4096


def open_program(
    core: Optional[Path] = None,
    *,
    kernel: bool = False,
    qemu: Optional[str] = None,
    symbols: Sequence[Path] = (),
    vmcoreinfo: Optional[Path] = None,
    progress: Optional[Progress] = None,
    unpack_into: Optional[Path] = None,
    modules: bool = True,
) -> Program:
    """Open a kernel; give exactly one of *core*, *kernel* and *qemu*.

    :param core: path of a vmcore: ELF or kdump, also packed with xz, zstd or gzip
    :param kernel: open the running kernel (as root)
    :param qemu: QMP socket of a QEMU guest: a path, or ``host:port``
    :param symbols: paths of the vmlinux and modules with DWARF of exactly this kernel; no other files
        are used. Without a vmlinux among them, types come from BTF.
    :param vmcoreinfo: path of a file with VMCOREINFO to use instead of the dump's own. Or ``auto``:
        if the dump's own does not fit its memory, use VMCOREINFO that is found in its memory and fits
    :param progress: called with how much of a packed core is unpacked
    :param unpack_into: existing folder to unpack it into, instead of the cache folder
    :param modules: create drgn's modules (``Program.modules()``), which drgn's own unwinder needs on
        ORC kernels; without a vmlinux this takes 2 ms for each loaded module
    :return: a program that drgn's own helpers work on
    :raises UsageError: if none or several of the three are given, ``auto`` without a core, or something that is
        not a path
    :raises InputError: if a file cannot be opened, or is of the wrong kind
    :raises TypesError: if there are no usable types, or *symbols* are of another kernel
    """
    if (core is not None) + bool(kernel) + (qemu is not None) != 1:
        raise UsageError("which kernel? give one of core, kernel and qemu")
    is_auto = vmcoreinfo == AUTO
    if is_auto and core is None:
        raise UsageError(f"--vmcoreinfo {AUTO} searches a dump: it works only with -c")
    core = None if core is None else path_given("core", core)
    vmcoreinfo = None if vmcoreinfo is None else path_given("vmcoreinfo", vmcoreinfo)
    qemu = None if qemu is None else path_given("qemu", qemu)
    if isinstance(symbols, (str, bytes, os.PathLike)):
        raise UsageError(f"symbols is a list of paths: [{symbols!r}]")
    paths = [path_given("symbols", path) for path in symbols]
    for path in paths:
        with open_regular(path):
            pass
    _silence_drgn()
    info = None if vmcoreinfo is None or is_auto else _read_vmcoreinfo(vmcoreinfo)
    file, held = (
        (None, None)
        if core is None
        else _core_file(core, vmcoreinfo is not None, progress, unpack_into)
    )
    if core is not None and file is not None:
        if is_auto:
            info = _search_vmcoreinfo(file, shown(core))
        info = _with_kernel_offset(info, file, shown(core), paths)
    prog = _new_program(file, info)
    # drgn calls its plugins while it opens the program; with this mark, ours does nothing then.
    prog.cache[_CACHE_KEY] = core
    prog.cache[_HELD_KEY] = held
    cut_short = None if file is None else file.cut_short
    if core is not None:
        assert file is not None
        name = shown(core)
        _open_core(prog, file, info, name)
    elif kernel:
        from .kcore import open_running_kernel  # its imports cost time, and few need them

        name = "the running kernel"
        _drgn_opens(partial(open_running_kernel, prog), f"{name}: cannot be read")
    else:
        assert qemu is not None
        from .qmp import open_guest  # its imports cost time, and few need them

        name = shown(qemu)
        opens = partial(open_guest, prog, qemu, name)
        _drgn_opens(opens, f"{name}: cannot be used as a QMP socket")
    _check_kernel(prog, name, file)
    text = _text_of(file, info)
    if text is not None:
        keep_vmcoreinfo(prog, text)
        with input_error_if_vanished(prog):
            _check_fit(prog, name, info, file, paths)
    try:
        with input_error_if_vanished(prog):
            _load_types(prog, name, paths, modules)
    except TypesError as e:
        if cut_short is not None and not paths:
            raise InputError(f"{name}: {cut_short}; {e.__cause__ or e}") from e
        raise
    if cut_short is not None:
        logger.warning("%s: %s", name, cut_short)
    return prog


def opened_here(prog: Program) -> bool:
    """Return whether :func:`open_program` opened this program, or is about to."""
    return _CACHE_KEY in prog.cache


def source_of(prog: Program) -> str:
    """Return what a program was opened from: the path of the core as it was given, ``live`` or ``qemu``."""
    if prog.flags & ProgramFlags.IS_LIVE:
        return "live" if prog.flags & ProgramFlags.IS_LOCAL else "qemu"
    return str(prog.cache.get(_CACHE_KEY) or prog.core_dump_path)


def require_kernel(prog: Program) -> None:
    """Check that a program is a Linux kernel. drgn itself also makes programs that are not.

    :raises InputError: if it is not
    """
    if prog.flags & ProgramFlags.IS_LINUX_KERNEL:
        return
    if prog.core_dump_path is None and not prog.flags & ProgramFlags.IS_LIVE:
        raise InputError("no kernel was opened in this program: open_program(core=...) opens one")
    where = "a running process" if prog.core_dump_path is None else shown(source_of(prog))
    raise InputError(f"{where}: is not the memory of a Linux kernel")


# ---- the target


def _silence_drgn() -> None:
    # Without any handler, Python prints drgn's warnings to stderr. The ones that matter
    # we raise as errors. A user who configures logging still sees all of them.
    drgn_logger = logging.getLogger("drgn")
    if not drgn_logger.hasHandlers():
        drgn_logger.addHandler(logging.NullHandler())


class _VmcoreinfoFile(msgspec.Struct, frozen=True):
    name: str
    """Name of the file, or of the dump in whose memory the text was found."""
    text: bytes


def _read_vmcoreinfo(path: str) -> _VmcoreinfoFile:
    with open_regular(path) as file:
        text = file.read(_MAX_VMCOREINFO_BYTES)
    if not text.strip(b"\0" + _WHITE_SPACE):
        what = "has only zeros in it" if b"\0" in text else "is empty"
        raise InputError(f"{shown(path)}: {what}; give VMCOREINFO, or leave --vmcoreinfo out")
    return _VmcoreinfoFile(shown(path), text.replace(b"\r\n", b"\n"))  # from an editor on Windows


def _with_kernel_offset(
    given: Optional[_VmcoreinfoFile], file: CoreFile, name: str, paths: Sequence[str]
) -> Optional[_VmcoreinfoFile]:
    """Return VMCOREINFO with KERNELOFFSET added. It is missing on x86-32, and where VMCOREINFO is cut short.

    drgn needs it to load a vmlinux.

    :param given: VMCOREINFO that was given to use instead of that in *file*
    :param name: What to call the dump in a message
    :param paths: As *symbols* of :func:`open_program`
    :raises TypesError: on x86-32, if the vmlinux is of another kernel; otherwise its build ID is checked later
    """
    text = file.vmcoreinfo if given is None else given.text
    if text is None:
        return given
    lines = vmcoreinfo_lines(text)
    address = symbol_among(lines, "_stext")
    image = next((path for path in paths if is_kernel_image(path)), None)
    if image is None or address is None or "KERNELOFFSET" in lines:
        return given
    arch = Architecture.I386 if file.arch == "i386" else Architecture.X86_64
    linked = linked_address(Platform(arch), image, "_stext")
    bits = 32 if arch is Architecture.I386 else 64
    if linked is None or not linked <= address < 1 << bits or (address - linked) % _PAGE_BYTES:
        if arch is Architecture.X86_64:
            return given
        raise TypesError(
            f"{shown(image)}: is not the vmlinux of this kernel: its _stext cannot be at {address:#x}"
        )
    text = text.split(b"\0", 1)[0]
    text = b"%s\nKERNELOFFSET=%x\n" % (text, address - linked)
    return _VmcoreinfoFile(name if given is None else given.name, text)


def _core_file(
    path: str, have_vmcoreinfo: bool, progress: Optional[Progress], unpack_into: Optional[Path]
) -> tuple[CoreFile, Optional[BinaryIO]]:
    """Return the core, unpacked, and an open file that keeps it in the cache folder, if it was packed."""
    name = shown(path)
    packed = compression_of(path)
    if packed is None:
        return check_core(path, name, have_vmcoreinfo), None
    from .core_cache import hold_core  # their imports cost time, and few need them
    from .unpack import unpacked

    held = None
    for _ in range(_MAX_TRIES):
        copy = str(unpacked(path, progress, unpack_into))
        held = hold_core(copy)
        if held is not None:
            break
    return check_core(copy, name, have_vmcoreinfo, packed), held


def _search_vmcoreinfo(file: CoreFile, name: str) -> Optional[_VmcoreinfoFile]:
    """Return VMCOREINFO that is in the memory of a dump and fits it; ``None`` if the dump's own fits.

    :param name: What to call the dump in a message
    :raises InputError: If none fits
    """
    if file.vmcoreinfo is not None and _fitting_program(file, None, name) is not None:
        return None
    pages = file.missing_pages
    info = _VmcoreinfoFile(name, stub(_PAGE_BYTES if pages is None else pages.page_bytes))
    prog = _new_program(file, info)
    _open_core(prog, file, info, name)
    tried = 0
    with open_regular(file.path) as opened, input_error_if_vanished(prog):
        for text in vmcoreinfo_in_memory(opened, prog):
            found = _VmcoreinfoFile(name, text)
            fitting = _fitting_program(file, found, name)
            if fitting is not None:
                own = vmcoreinfo_of_symbol(fitting)
                return found if own is None else _VmcoreinfoFile(name, own)
            tried += 1
    what = f"{tried} found, none fits" if tried else "none found"
    raise InputError(
        f"{name}: its memory was searched for VMCOREINFO: {what}; give one with --vmcoreinfo FILE"
    )


def _fitting_program(
    file: CoreFile, info: Optional[_VmcoreinfoFile], name: str
) -> Optional[Program]:
    try:
        prog = _new_program(file, info)
        _open_core(prog, file, info, name)
    except InputError:  # drgn cannot use this text
        return None
    with input_error_if_vanished(prog):
        return prog if fits(prog, file.walks_page_tables) else None


def _open_core(prog: Program, file: CoreFile, info: Optional[_VmcoreinfoFile], name: str) -> None:
    failure = f"{name}: {file.cut_short or 'cannot be opened as a vmcore'}"
    _drgn_opens(partial(prog.set_core_dump, file.path), failure)
    text = None if info is None else info.text
    _drgn_opens(partial(correct_core_memory, prog, file.path, text, file.missing_pages), failure)


def _text_of(file: Optional[CoreFile], info: Optional[_VmcoreinfoFile]) -> Optional[bytes]:
    if info is not None:
        return info.text
    return None if file is None else file.vmcoreinfo


def _check_fit(
    prog: Program,
    name: str,
    info: Optional[_VmcoreinfoFile],
    file: Optional[CoreFile],
    paths: Sequence[str],
) -> None:
    """Refuse a kernel that is not where VMCOREINFO says.

    :param info: VMCOREINFO that was given to use instead of the kernel's own
    :param file: The dump; ``None`` if the kernel is live
    :param paths: As *symbols* of :func:`open_program`
    :raises InputError: With what was looked for, and where
    """
    walks_page_tables = file is not None and file.walks_page_tables
    if fits(prog, walks_page_tables):
        return
    has_symbols = fits(prog, False) or _has_idle_task(prog, paths)
    found = misfit(prog, walks_page_tables, has_symbols)
    if found is None:
        return
    if file is not None and file.cut_short is not None:
        raise InputError(
            f"{name}: {file.cut_short}, and so is the kernel: {found.seen}; {COPY_AGAIN}"
        )
    whose = "its VMCOREINFO" if info is None or info.name == name else f"VMCOREINFO of {info.name}"
    remedy = OTHER_VMCOREINFO
    if prog.flags & ProgramFlags.IS_LIVE:
        remedy = "give the right one with --vmcoreinfo FILE, or none"
    elif (
        info is not None
        and file is not None
        and file.vmcoreinfo is not None
        and _fitting_program(file, None, name) is not None
    ):
        remedy = "leave it out: the dump's own VMCOREINFO fits"
    or_else = ", or the kernel is not in the dump" if found.may_be_missing else ""
    raise InputError(f"{name}: {whose} does not fit its memory{or_else}: {found.seen}; {remedy}")


def _has_idle_task(prog: Program, paths: Sequence[str]) -> bool:
    image = next((path for path in paths if is_kernel_image(path)), None)
    assert prog.platform is not None  # it is a kernel
    linked = None if image is None else linked_address(prog.platform, image, "init_task")
    if linked is None:
        return False
    return has_idle_task(prog, linked + kernel_offset(vmcoreinfo(prog)))


def _new_program(file: Optional[CoreFile], vmcoreinfo: Optional[_VmcoreinfoFile]) -> Program:
    platform = None
    if file is not None and file.arch is not None:
        platform = Platform(Architecture[file.arch.upper()])
    if vmcoreinfo is None:
        return Program(platform)
    return _drgn_opens(
        partial(Program, platform, vmcoreinfo=vmcoreinfo.text),
        f"{vmcoreinfo.name}: is not VMCOREINFO",
    )


def _drgn_opens(call: Callable[[], T], failure: str) -> T:
    try:
        return call()
    except (OSError, ValueError, LookupError, OverflowError, FaultError, BadDataError) as e:
        raise InputError(f"{failure}: {_one_line(e)}") from e
    except MemoryError as e:  # a size in the file is wrong, or the machine is too small
        raise InputError(f"{failure}: there is too little memory") from e
    except Exception as e:
        # drgn raises a plain Exception for an error of libelf or libkdumpfile.
        if type(e) is not Exception:
            raise
        raise InputError(f"{failure}: {_one_line(e)}") from e


@contextmanager
def input_error_if_vanished(prog: Program) -> Iterator[None]:
    """Inside this context, report a kernel that vanishes: a guest that is killed, a dump on a network share that goes away.

    :raises InputError: instead of the error that drgn raises when its memory can no longer be read
    """
    try:
        yield
    except Exception as e:
        if not isinstance(e, OSError) and type(e) is not Exception:
            raise
        is_live = bool(prog.flags & ProgramFlags.IS_LIVE)
        # drgn raises a plain Exception for a broken QMP connection.
        if not isinstance(e, OSError) and not is_live:
            raise
        what = "went away while it was read" if is_live else "cannot be read"
        raise InputError(f"{shown(source_of(prog))}: {what}: {_one_line(e)}") from e


def _one_line(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())


def _check_kernel(prog: Program, name: str, file: Optional[CoreFile]) -> None:
    if not prog.flags & ProgramFlags.IS_LINUX_KERNEL and file is not None and not file.vmcoreinfo:
        raise InputError(f"{name}: {NO_VMCOREINFO}")  # a copy of /proc/kcore, say
    if not prog.flags & ProgramFlags.IS_LINUX_KERNEL:
        raise InputError(f"{name}: is not the memory of a Linux kernel")
    arch = prog.platform.arch.name.lower() if prog.platform else "an unknown machine"
    if arch not in ARCHES:
        raise InputError(f"{name}: is a kernel of {arch}; only {UNDERSTOOD} are supported")


def _load_types(prog: Program, name: str, paths: Sequence[str], modules: bool) -> None:
    images = [path for path in paths if is_kernel_image(path)]
    others = [path for path in paths if path not in images]
    if images:
        load_dwarf(prog, name, images, others)  # drgn then creates its modules
        return
    try:
        use_builtin_types(prog)
    except TypesError as e:
        raise TypesError(f"{name}: {e}") from e
    if modules:
        create_modules(prog)
    load_modules(prog, name, others)
