# SPDX-License-Identifier: LGPL-2.1-or-later
"""A guest under QEMU's emulation, and the few QMP commands it takes to dump it."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from re import Pattern
from types import TracebackType
from typing import Any, Optional

from .arch import console_name, cpu_model, machine_options, qemu_program
from .crowd import CROWD
from .errors import LabError
from .kernel import Kernel
from .run import Progress, end_group
from .variants import Variant

__all__ = ("Machine", "qemu_command", "second_console", "second_monitor", "shared_folder")

_TAIL_LINES = 25
_CRASHING = ("panic=0", "oops=panic", "panic_print=0x40")
"""Stay as it is, never go on after an oops, and print what the other CPUs are at."""


def qemu_command(variant: Variant, kernel: Kernel, initramfs: Path, *, mode: str) -> list[str]:
    """The command line, without what says where console and monitor go.

    ``mode`` is what the guest's init is told to do: "freeze", "shell" or "bare".
    """
    arch = variant.kernel.arch
    append = [f"console={console_name(arch)}", "init_on_free=1"]
    if variant.crash:
        append += _CRASHING
    else:
        append += ["panic=-1"]
    append += [*variant.append, f"lab.mode={mode}"]
    if variant.crash:
        append += [f"lab.crash={variant.crash.name}"]
    if variant.kdump:
        append += ["lab.kdump"]
    if variant.live:
        # A tmpfs takes no more than half of the memory.
        append += [f"lab.live={variant.live}", "rootfstype=ramfs"]
    if variant.livepatch:
        append += [f"lab.livepatch={variant.livepatch}", "ignore_loglevel"]
    if variant.crowd:
        append += [f"lab.live={CROWD}", f"crowd.tasks={variant.crowd}"]
    return [
        qemu_program(arch),
        "-machine", machine_options(arch),
        "-accel", "tcg,thread=multi",
        "-cpu", variant.cpu or cpu_model(arch),
        "-m", str(variant.memory_mib),
        "-smp", str(variant.cpus),
        "-nodefaults",
        "-no-reboot",
        "-display", "none",
        "-device", "vmcoreinfo",
        "-kernel", str(kernel.image),
        "-initrd", str(initramfs),
        "-append", " ".join(append),
    ]  # fmt: skip


def shared_folder(folder: Path) -> list[str]:
    """Words for the command line: ``folder`` is there in the guest, as 9p over virtio."""
    return ["-virtfs", f"local,path={folder},mount_tag=lab,security_model=none"]


def second_console(path: Path) -> list[str]:
    """Words for the command line: what the guest writes to /dev/ttyS1 goes to a file."""
    return ["-chardev", f"file,id=second,path={path}", "-device", "isa-serial,chardev=second"]


def second_monitor(socket: Path) -> list[str]:
    """Words for the command line: QMP for somebody else, at a socket."""
    return ["-qmp", f"unix:{socket},server=on,wait=off"]


class Machine:
    """A running guest; leaving the ``with`` block ends it, whatever happened.

    The console goes to ``log``; the monitor is a pipe to us, so it ends with us.
    """

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self._log = log
        self._errors = log.with_suffix(".qemu")
        log.write_bytes(b"")
        with open(self._errors, "w") as errors:
            self._process = subprocess.Popen(
                [*command, "-serial", f"file:{log}", "-qmp", "stdio"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
            )

    def __enter__(self) -> Machine:
        try:
            self._reply()  # the greeting
            self.command("qmp_capabilities")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends QEMU."""
        end_group(self._process)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        self._errors.unlink(missing_ok=True)

    @property
    def pid(self) -> int:
        """Of the QEMU process."""
        return self._process.pid

    def console(self) -> str:
        """All that the guest has said so far."""
        return self._log.read_text(errors="replace")

    def _reply(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            said = self._errors.read_text(errors="replace").strip()
            raise LabError(f"QEMU ended: {said or 'without a word'}{self.tail()}")
        reply: dict[str, Any] = json.loads(line)
        return reply

    def command(self, name: str, **arguments: object) -> dict[str, Any]:
        """Runs one QMP command to its end and returns what it gives.

        :raises LabError: QEMU refuses
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"execute": name, "arguments": arguments}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # QEMU is gone; reading tells why
        while True:
            reply = self._reply()  # events come in between
            if "error" in reply:
                raise LabError(f"QEMU: {name}: {reply['error'].get('desc')}")
            if "return" in reply:
                given: dict[str, Any] = reply["return"]
                return given

    def dump(self, path: Path, form: str = "elf") -> None:
        """Writes physical memory and registers to a file."""
        self.command("dump-guest-memory", paging=False, protocol=f"file:{path}", format=form)

    def dump_formats(self) -> set[str]:
        """Those that this QEMU was built with."""
        return set(self.command("query-dump-guest-memory-capability")["formats"])

    def wait_for(
        self, wanted: Pattern[str], progress: Progress, seconds: float, *, panics: bool = False
    ) -> re.Match[str]:
        """Waits for a line on the console.

        :param panics: the guest is expected to panic
        :raises LabError: it does not come, or the guest says that it never will
        """
        limit = time.monotonic() + seconds
        while True:
            match = wanted.search(self.console())
            if match:
                return match
            self.check(panics=panics)
            if time.monotonic() > limit:
                raise LabError(f"the guest is not ready after {seconds:.0f} s{self.tail()}")
            self.show(progress)
            time.sleep(0.1)

    def check(self, *, panics: bool = False) -> None:
        """Is all well so far?

        :param panics: the guest is expected to panic
        :raises LabError: the guest says that it failed, or QEMU has ended
        """
        failure = re.compile(
            r"LAB-FAILED (.*)" if panics else r"(?:LAB-FAILED|Kernel panic -) (.*)"
        )
        failed = failure.search(self.console())
        if failed:
            raise LabError(f"the guest failed: {failed[1]}{self.tail()}")
        if self._process.poll() is not None:
            self._reply()

    def show(self, progress: Progress) -> None:
        """Shows the last line of the console."""
        lines = self.console().splitlines()
        progress.update(lines[-1] if lines else "starting")

    def tail(self) -> str:
        """The last lines of the console, for the end of a message."""
        return "; the end of its console:\n" + "\n".join(self.console().splitlines()[-_TAIL_LINES:])
