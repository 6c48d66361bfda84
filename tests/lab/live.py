# SPDX-License-Identifier: LGPL-2.1-or-later
"""Boots a guest with Python, drgn and this project in it, and has it look at itself.

A program of tests/live runs in the guest beside the tasks of the workload, and writes what
it found to a second serial port, a line of JSON for each thing. When it has ended well the
guest freezes, if that is wanted, and is dumped: the answer sheet is of the boot that the
program looked at.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Optional

import drgn

from .arch import qemu_program
from .cache import Entry, exclusive, file_hash, find_entry, make_entry
from .dump import SHEET_LINE, Dump, get_kernel, keep_for_a_look, kernel_if_cached, without_paths
from .errors import LabError
from .guest import cached_initramfs, make_initramfs
from .hung import cached_hung_initramfs, make_hung_initramfs
from .initramfs import join_initramfs
from .kernel import Kernel
from .livepatch import cached_livepatch_initramfs, make_livepatch_initramfs
from .packages import BOOT, program_version, require
from .qemu import Machine, qemu_command, second_console
from .root import PACKAGES, Root, archive_of_folder, cached_root, get_root
from .run import Progress, say
from .sheet import read_whole_sheet
from .storm import STORM_SOURCES, build_storm_module
from .variants import Variant

__all__ = ("AUDITS_VARIABLE", "LiveRun", "cached_live", "make_live")

AUDITS_VARIABLE = "DRGN_TOOLS_LAB_AUDITS"
"""How many audits there are to be in a storm."""

_TESTS = Path(__file__).parent.parent
_PROJECT = _TESTS.parent / "drgn_tools"
_CONTRIB = _TESTS.parent / "contrib"
_PROGRAMS = _TESTS / "live"
_ENDED = re.compile(r"LAB-LIVE (\d+)\r?\n")
_SECONDS = 3600.0
"""500 audits under emulation take most of that; whoever hangs says so earlier itself."""
_FREEZE_SECONDS = 120.0


@dataclass(frozen=True)
class LiveRun(Dump):
    """What a live guest found out, and its dump if it was frozen then."""

    @property
    def found(self) -> Path:
        """What the program in the guest reported: a JSON array of name and value a line."""
        return self.entry / "found.jsonl"

    def read_found(self) -> dict[str, list[Any]]:
        """What was reported, by name, in order."""
        found = defaultdict(list)
        for line in self.found.read_text().splitlines():
            name, value = json.loads(line)
            found[name].append(value)
        return dict(found)


def _project_files() -> list[Path]:
    """What is installed in the guest, less the demo."""
    return sorted(path for path in _PROJECT.rglob("*.py"))


def _programs() -> list[Path]:
    return sorted(_PROGRAMS.glob("*.py"))


def _scripts() -> list[Path]:
    return sorted(_CONTRIB.glob("*.py"))


def _audits() -> str:
    return os.environ.get(AUDITS_VARIABLE, "500")


def _inputs(variant: Variant, kernel: Kernel, initramfs: Entry, root: Entry) -> dict[str, str]:
    command = _command(variant, kernel, initramfs / "initramfs.gz")
    return {
        "kernel": kernel.entry.name,
        "initramfs": initramfs.name,
        "root": root.name,
        "storm": file_hash(*STORM_SOURCES),
        "project": file_hash(*_project_files()),
        "programs": file_hash(*_programs(), *_scripts()),
        "runner": file_hash(Path(__file__)),
        "qemu": program_version(qemu_program(variant.kernel.arch)),
        "command": without_paths(command, kernel, initramfs),
    }


def _command(variant: Variant, kernel: Kernel, initramfs: Path) -> list[str]:
    mode = "bare" if variant.bare else "freeze"
    with_audits = replace(variant, append=(*variant.append, f"live.audits={_audits()}"))
    return qemu_command(with_audits, kernel, initramfs, mode=mode)


def _cached_initramfs(variant: Variant, kernel: Kernel) -> Optional[Entry]:
    if variant.hung:
        return cached_hung_initramfs(variant, kernel)
    if variant.livepatch:
        return cached_livepatch_initramfs(variant, kernel)
    return cached_initramfs(kernel, variant.kernel.arch)


def _make_initramfs(variant: Variant, kernel: Kernel) -> Path:
    if variant.hung:
        return make_hung_initramfs(variant, kernel) / "initramfs.gz"
    if variant.livepatch:
        return make_livepatch_initramfs(variant, kernel) / "initramfs.gz"
    return make_initramfs(kernel, variant.kernel.arch)


def cached_live(variant: Variant) -> Optional[LiveRun]:
    """What was found, if this project was run on this kernel."""
    kernel = kernel_if_cached(variant)
    initramfs = _cached_initramfs(variant, kernel) if kernel else None
    root = cached_root()
    if not kernel or not initramfs or not root:
        return None
    entry = find_entry("live", variant.name, _inputs(variant, kernel, initramfs, root.entry))
    return LiveRun(entry) if entry else None


def make_live(variant: Variant, *, fresh: bool = False) -> LiveRun:
    """Builds what is needed, boots, and waits until the program in the guest has ended.

    :param fresh: run it again anyway
    :raises LabError: the guest failed, or the program in it; what they said is kept
    """
    require(BOOT)
    kernel = get_kernel(variant)
    initramfs = _make_initramfs(variant, kernel)
    root = get_root()
    inputs = _inputs(variant, kernel, initramfs.parent, root.entry)

    def fill(folder: Path) -> None:
        run = LiveRun(folder)
        try:
            with tempfile.TemporaryDirectory() as work:
                whole = Path(work, "initramfs")
                project = _project(variant, kernel, root, folder / "build.log")
                parts = (initramfs.read_bytes(), root.archive.read_bytes(), project)
                join_initramfs(whole, parts)
                _run(variant, run, _command(variant, kernel, whole))
        except LabError:
            kept = keep_for_a_look(variant, folder)
            say(f"{variant.name}: what the guest said is kept in {kept.entry}")
            raise

    run = LiveRun(make_entry("live", variant.name, inputs, fill, fresh=fresh))
    _remove_others(variant, run)
    return run


def _remove_others(variant: Variant, run: LiveRun) -> None:
    """Every change of the project is a new run, and nobody looks at the ones before."""
    with exclusive("live"):
        for other in run.entry.parent.iterdir():
            if other != run.entry and re.fullmatch(rf"{variant.name}-[0-9a-f]{{16}}", other.name):
                shutil.rmtree(other)


def _project(variant: Variant, kernel: Kernel, root: Root, log: Path) -> bytes:
    """An archive of the project, compiled for the guest, its programs and its module."""
    with tempfile.TemporaryDirectory() as work, Progress("compiling the project") as progress:
        folder = Path(work)
        for path in _project_files():
            installed = folder / PACKAGES / path.relative_to(_PROJECT.parent)
            installed.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, installed)
        live = folder / "live"
        contrib = live / "contrib"
        contrib.mkdir(parents=True)
        for path in _programs():
            shutil.copyfile(path, live / path.name)
        for path in _scripts():
            shutil.copyfile(path, contrib / path.name)
        root.compile(folder, progress, log)
        if not variant.bare and not variant.livepatch and not variant.hung:
            shutil.copy(build_storm_module(variant.kernel, kernel), live)
        return archive_of_folder(folder)


def _run(variant: Variant, run: LiveRun, command: list[str]) -> None:
    with (
        Progress(f"running {variant.live} in {variant.name}") as progress,
        Machine([*command, *second_console(run.found)], run.log) as machine,
    ):
        ended = machine.wait_for(_ENDED, progress, _SECONDS)
        if int(ended[1]):
            raise LabError(f"{variant.live} ended with status {ended[1]}{machine.tail()}")
        if variant.frozen:
            sheet = machine.wait_for(SHEET_LINE, progress, _FREEZE_SECONDS)
            machine.command("stop")
            machine.dump(run.core)
            run.core.chmod(0o644)
            prog = drgn.Program()
            prog.set_core_dump(run.core)
            read_whole_sheet(prog, int(sheet[1], 16))
