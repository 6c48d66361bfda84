# SPDX-License-Identifier: LGPL-2.1-or-later
"""Open a vmcore, the running kernel or a QEMU guest as an ordinary drgn Program.

Types and symbols come from the kernel's own BTF and kallsyms, or, with a
vmlinux given, from its DWARF. Debuginfo is never searched for: that is slow,
may go to the network, and is what drgn itself does (in its REPL DWARF that drgn
found is used, see :func:`use_builtin_types`).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Literal, NamedTuple, Optional, TypeVar, Union

from drgn import (
    Architecture,
    BadDataError,
    FaultError,
    MissingDebugInfoError,
    ModuleFileStatus,
    Platform,
    Program,
    ProgramFlags,
    Type,
    TypeKindSet,
)

from .btf import Btf
from .btf_finder import BtfFinder
from .core_file import CoreFile, check_core, compression_of, open_regular, shown
from .elf import ET_REL, build_id_among, notes_in, read_elf, read_notes
from .errors import InputError, TypesError, UsageError
from .find_btf import read_btf
from .kallsyms import find_symbols, kallsyms_of, read_up_to
from .left_out import fault_where_left_out
from .shared import Shared
from .vmcoreinfo import build_id, vmcoreinfo

if TYPE_CHECKING:
    from .unpack import Progress

__all__ = (
    "build_id",
    "has_dwarf",
    "open_program",
    "opened_here",
    "source_of",
    "types_source",
    "use_builtin_types",
    "vmcoreinfo",
)

Path = Union[str, "os.PathLike[str]"]
T = TypeVar("T")

logger = logging.getLogger("drgn_tools")

_BTF: Shared[Btf] = Shared()
_FINDER = "drgn_tools"
_OPENED_KEY = "drgn_tools.opened"
_ARCHITECTURE_OF = {
    "x86_64": Architecture.X86_64,
    "i386": Architecture.I386,
    "i686": Architecture.I386,
}
"""utsname.machine -> what it is to drgn; no other kernel is understood."""
_MAX_VMCOREINFO_BYTES = 1 << 20
_MAX_NOTES_BYTES = 1 << 16
_VMLINUX_HINT = "give the vmlinux of this kernel with -s"


def open_program(
    *,
    core: Optional[Path] = None,
    kernel: bool = False,
    qemu: Optional[str] = None,
    symbols: Sequence[Path] = (),
    vmcoreinfo: Optional[Path] = None,
    progress: Optional[Progress] = None,
    unpack_into: Optional[Path] = None,
) -> Program:
    """Open a kernel; exactly one of *core*, *kernel* and *qemu* is to be given.

    :param core: A vmcore: ELF or kdump, also packed with xz, zstd or gzip
    :param kernel: The running kernel (as root)
    :param qemu: QMP socket of a QEMU guest: a path, or ``host:port``
    :param symbols: vmlinux and modules with DWARF, of this very kernel; these files and no others
        are used. Without a vmlinux among them types come from BTF.
    :param vmcoreinfo: File to take VMCOREINFO from instead of the dump
    :param progress: Told how far the unpacking of a packed core is
    :param unpack_into: Existing folder to unpack it into, instead of the cache folder
    :return: A Program that drgn's own helpers work on
    :raises UsageError: none or several of the three were given
    :raises InputError: a file cannot be opened, or is not what it should be
    :raises TypesError: no usable types, or symbols of another kernel
    """
    if (core is not None) + bool(kernel) + (qemu is not None) != 1:
        raise UsageError("which kernel? give one of core, kernel and qemu")
    paths = [os.fspath(path) for path in symbols]
    for path in paths:
        with open_regular(path):
            pass
    _silence_drgn()
    info = None if vmcoreinfo is None else _read_vmcoreinfo(os.fspath(vmcoreinfo))
    file = (
        None
        if core is None
        else _core_file(os.fspath(core), info is not None, progress, unpack_into)
    )
    prog = _new_program(file, info)
    # Plugins are told of the program while it is being opened; ours then keeps out.
    prog.cache[_OPENED_KEY] = None if core is None else os.fspath(core)
    cut_short = None if file is None else file.cut_short
    if core is not None:
        assert file is not None
        name = shown(os.fspath(core))
        failure = f"{name}: {cut_short or 'cannot be opened as a vmcore'}"
        _drgn_opens(partial(prog.set_core_dump, file.path), failure)
        fault_where_left_out(prog, file.path)
    elif kernel:
        from .kcore import open_running_kernel  # with all that it imports, for who needs it

        name = "the running kernel"
        _drgn_opens(partial(open_running_kernel, prog), f"{name}: cannot be read")
    else:
        assert qemu is not None
        from .qmp import open_guest  # with all that it imports, for who needs it

        name = shown(qemu)
        opens = partial(open_guest, prog, qemu, name)
        _drgn_opens(opens, f"{name}: cannot be used as a QMP socket")
    _check_kernel(prog, name)
    try:
        with while_it_is_there(prog):
            _load_types(prog, name, paths)
    except TypesError as e:
        if cut_short is not None and not paths:
            raise InputError(f"{name}: {cut_short}, the kernel's own types with it") from e
        raise
    if cut_short is not None:
        logger.warning("%s: %s", name, cut_short)
    return prog


def opened_here(prog: Program) -> bool:
    """Return whether :func:`open_program` opened this program (also while it still does)."""
    return _OPENED_KEY in prog.cache


def source_of(prog: Program) -> str:
    """Where a program came from: path of the core as it was given, ``live`` or ``qemu``."""
    if prog.flags & ProgramFlags.IS_LIVE:
        return "live" if prog.flags & ProgramFlags.IS_LOCAL else "qemu"
    return str(prog.cache.get(_OPENED_KEY) or prog.core_dump_path)


# ---- the target


def _silence_drgn() -> None:
    # Without any handler, Python prints drgn's warnings to stderr; ours come as
    # exceptions. Whoever configures logging sees them as before.
    drgn_logger = logging.getLogger("drgn")
    if not drgn_logger.hasHandlers():
        drgn_logger.addHandler(logging.NullHandler())


class _VmcoreinfoFile(NamedTuple):
    name: str
    text: bytes


def _read_vmcoreinfo(path: str) -> _VmcoreinfoFile:
    with open_regular(path) as file:
        return _VmcoreinfoFile(shown(path), file.read(_MAX_VMCOREINFO_BYTES))


def _core_file(
    path: str, have_vmcoreinfo: bool, progress: Optional[Progress], unpack_into: Optional[Path]
) -> CoreFile:
    name = shown(path)
    if compression_of(path) is not None:
        from .unpack import unpacked  # with all that it imports, for the few who need it

        path = str(unpacked(path, progress, unpack_into))
    return check_core(path, name, have_vmcoreinfo)


def _new_program(file: Optional[CoreFile], vmcoreinfo: Optional[_VmcoreinfoFile]) -> Program:
    platform = None
    if file is not None and file.machine is not None:
        platform = Platform(_ARCHITECTURE_OF[file.machine])
    if vmcoreinfo is None:
        return Program(platform)
    return _drgn_opens(
        partial(Program, platform, vmcoreinfo=vmcoreinfo.text),
        f"{vmcoreinfo.name}: is no VMCOREINFO",
    )


def _drgn_opens(call: Callable[[], T], failure: str) -> T:
    try:
        return call()
    except (OSError, ValueError, LookupError, OverflowError, FaultError, BadDataError) as e:
        raise InputError(f"{failure}: {_one_line(e)}") from e
    except MemoryError as e:  # the file says how much is wanted
        raise InputError(f"{failure}: there is too little memory") from e
    except Exception as e:
        # drgn has no class of its own for what libelf and libkdumpfile refuse.
        if type(e) is not Exception:
            raise
        raise InputError(f"{failure}: {_one_line(e)}") from e


@contextmanager
def while_it_is_there(prog: Program) -> Iterator[None]:
    """A kernel may go away while it is read: a guest that is killed, a dump on another machine.

    :raises InputError: instead of what drgn raises then.
    """
    is_live = bool(prog.flags & ProgramFlags.IS_LIVE)
    try:
        yield
    except Exception as e:
        # drgn has no class of its own for a QMP connection that is gone.
        if not isinstance(e, OSError) and not (is_live and type(e) is Exception):
            raise
        what = "went away while it was read" if is_live else "cannot be read"
        raise InputError(f"{shown(source_of(prog))}: {what}: {_one_line(e)}") from e


def _one_line(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())


def _check_kernel(prog: Program, name: str) -> None:
    if not prog.flags & ProgramFlags.IS_LINUX_KERNEL:
        raise InputError(f"{name}: is not the memory of a Linux kernel")
    platform = prog.platform
    if platform is None or platform.arch not in _ARCHITECTURE_OF.values():
        arch = platform.arch.name.lower() if platform else "an unknown machine"
        raise InputError(f"{name}: is a kernel of {arch}; only x86_64 and i386 are understood")


# ---- DWARF


def _load_types(prog: Program, name: str, paths: Sequence[str]) -> None:
    images = [path for path in paths if _is_kernel_image(path)]
    if images:
        _load_dwarf(prog, name, images[0], paths)
    else:
        try:
            use_builtin_types(prog)
        except TypesError as e:
            raise TypesError(f"{name}: {e}") from e
        if paths:
            _load_files(prog, paths)


def _load_dwarf(prog: Program, name: str, image: str, paths: Sequence[str]) -> None:
    expected = _build_id_by_drgn(prog)
    if expected is not None:
        _compare(name, expected, image)
    _load_files(prog, paths)
    if not has_dwarf(prog):
        raise TypesError(
            f"{shown(image)}: has no DWARF debugging information, or it is damaged; "
            "give a vmlinux that has it, or leave -s out to use BTF"
        )
    if expected is None:
        _compare_in_memory(prog, name, image)


def _load_files(prog: Program, paths: Sequence[str]) -> None:
    with suppress(MissingDebugInfoError):  # what matters is looked at afterwards
        prog.load_debug_info(paths)


def _is_kernel_image(path: str) -> bool:
    with open_regular(path) as file:
        elf = read_elf(file)
    if elf is None:
        raise TypesError(
            f"{shown(path)}: is no ELF file; -s takes the vmlinux with debugging information"
        )
    return elf.type != ET_REL


def _build_id_by_drgn(prog: Program) -> Optional[str]:
    # Not build_id(): reading VMCOREINFO makes drgn settle on the type of char
    # (see _BuiltinTypes), which is for the DWARF to say.
    main, _ = next(iter(prog.loaded_modules()))
    return main.build_id.hex() if main.build_id else None


def _compare(name: str, expected: Optional[str], path: str) -> None:
    with open_regular(path) as file:
        elf = read_elf(file)
        found = build_id_among(read_notes(file, elf)) if elf is not None else None
    if found != expected:
        raise TypesError(
            f"{name}: kernel build ID {expected or 'unknown'} "
            f"but {shown(path)} {f'is {found}' if found else 'has none'}; "
            f"{_VMLINUX_HINT}, or leave -s out to use BTF"
        )


def _compare_in_memory(prog: Program, name: str, path: str) -> None:
    # Before v5.9 VMCOREINFO has no build ID, and drgn takes any vmlinux. The
    # kernel has it in memory, too: at this place, if the vmlinux is the right one.
    try:
        start, stop = (prog.symbol(f"__{end}_notes").address for end in ("start", "stop"))
    except LookupError:
        return
    notes = read_up_to(prog, start, min(stop - start, _MAX_NOTES_BYTES))
    _compare(name, build_id_among(notes_in(notes)), path)


def has_dwarf(prog: Program) -> bool:
    """Return whether DWARF of the kernel image is loaded."""
    try:
        return bool(prog.main_module().debug_file_status == ModuleFileStatus.HAVE)
    except LookupError:
        return False


def types_source(prog: Program) -> Literal["btf", "dwarf"]:
    """Return where the types of this program come from."""
    return "dwarf" if has_dwarf(prog) else "btf"


# ---- BTF


class _BuiltinTypes:
    # The type finder that a program gets. It opens the BTF when it is first
    # asked, which is for char: drgn remembers that type from its first use on,
    # and reading VMCOREINFO, which opening needs, is a use. Asked while drgn
    # looks for char, the last word is the BTF's; char is unsigned since v6.2.

    def __init__(self) -> None:
        self.finder: Optional[BtfFinder] = None
        self._opening = False

    def open(self, prog: Program) -> BtfFinder:
        if self.finder is None:
            self._opening = True
            try:
                self.finder = _open_btf(prog)
            finally:
                self._opening = False
        return self.finder

    def find_type(
        self, prog: Program, kinds: TypeKindSet, name: str, filename: Optional[str]
    ) -> Optional[Type]:
        return None if self._opening else self.open(prog).find_type(prog, kinds, name, filename)


def _open_btf(prog: Program) -> BtfFinder:
    kallsyms = kallsyms_of(prog)
    if kallsyms is None or not len(kallsyms):
        raise TypesError(
            "the symbol table of this kernel (kallsyms) is not in the dump, or cannot be found there; "
            f"{_VMLINUX_HINT}"
        )
    parts = (read_btf(prog, kallsyms), prog.address_size())
    return BtfFinder(prog, _BTF.get(parts, lambda: Btf(*parts)), kallsyms)


def use_builtin_types(prog: Program) -> None:
    """Give a program the types, variables and symbols that its kernel carries inside itself.

    They come last: what debuginfo knows, loaded now or later, goes first. Done
    once for a program; again, it does nothing.

    What an ELF dump leaves out is then missing, no longer zero (see left_out.py).

    :raises TypesError: if the kernel has no BTF or kallsyms, they are not in the dump, or damaged
    """
    if _FINDER in prog.enabled_type_finders():
        return
    fault_where_left_out(prog)  # if drgn opened it
    if _FINDER not in prog.registered_type_finders():
        prog.cache[_FINDER] = _BuiltinTypes()
        prog.register_type_finder(_FINDER, prog.cache[_FINDER].find_type)
    others = prog.enabled_type_finders()
    prog.set_enabled_type_finders([*others, _FINDER])
    try:
        prog.type("char")
        finder = prog.cache[_FINDER].open(prog)
    except TypesError:
        prog.set_enabled_type_finders(others)
        raise
    prog.register_object_finder(_FINDER, finder.find_object, enable_index=-1)
    prog.register_symbol_finder(_FINDER, find_symbols, enable_index=-1)
