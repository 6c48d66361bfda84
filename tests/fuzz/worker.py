# SPDX-License-Identifier: LGPL-2.1-or-later
"""Open damaged dumps one after another, in a process with little memory.

    python -m tests.fuzz.worker DUMP NAME FIRST_SEED COUNT STEP [KIND...]

It prints a line of JSON before and after each dump. So the parent process knows which dump caused a
crash or a hang. The process keeps what dumps share (types, symbols), so opening the next one takes
some 10 ms.
"""

from __future__ import annotations

import faulthandler
import gc
import json
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, Optional

from drgn_tools import DrgnToolsError, KernelAudit, audit_kernel, open_program
from drgn_tools.analysis.patch_question import Question, TaskAnswer
from drgn_tools.render.views import TASKS_WITH_FRAMES, render

from ..support.damaged_livepatch import ask_of_patches
from .damage import Damage, damage
from .files import Victim
from .properties import (
    Promise,
    faults_of_answers,
    faults_of_error,
    other_answers,
    other_patch_answers,
    promise,
)
from .whole import Whole

__all__ = ("MEMORY_BYTES", "SECONDS", "check", "main")

MEMORY_BYTES = 512 << 20
SECONDS = 10
"""CPU time for one dump; not real time, because the machine may be busy."""
_MAX_FAULTS = 6
_RESTART_BYTES = 380 << 20
"""Address space that a process may have before it is replaced, so that the next dump does not fail because of it."""


class Hang(BaseException):
    """A dump took too long."""


def _hang(_: int, frame: Optional[FrameType]) -> NoReturn:
    where = "".join(traceback.format_stack(frame)[-6:])
    raise Hang(where)


def audit_of(
    path: Path, whole: Whole
) -> tuple[KernelAudit, Optional[tuple[Question, list[TaskAnswer]]]]:
    """Return all answers. Those that changed are also rendered in every format, because that may fail.

    The second value is the answers about the live patch, if the whole dump has one.
    """
    prog = open_program(core=path)
    found = audit_kernel(prog)
    changed = [stack for stack in found if whole.records.get(stack.task) != stack]
    lines = [line for stack in changed for line in str(stack).split("\n")]
    for style in ("json", "csv", "table"):
        lines += render(TASKS_WITH_FRAMES, style, found.kernel, changed, found.problems, 120)
    unsafe = [line for line in lines if not line.isprintable()]
    assert not unsafe, f"a terminal may act on {unsafe[0]!r}"
    return found, ask_of_patches(prog, found) if whole.patch_answers else None


def check(whole: Whole, victim: Victim, case: Damage) -> dict[str, Any]:
    """Open one damaged dump, and return the outcome and the faults."""
    faults: list[str] = []
    others: list[str] = []
    with victim.changed(case.changes) as path:
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            found, of_patches = audit_of(path, whole)
            outcome = "same" if found.tasks == whole.audit.tasks else "other"
            if found.problems or (of_patches is not None and of_patches[0].problems):
                outcome = "problems"
        except DrgnToolsError as e:
            outcome = "refused"
            faults += faults_of_error(e)
            found = None
        except Hang as e:
            outcome, found = "hang", None
            faults.append(f"took longer than {SECONDS} s: {e}")
        except BaseException as e:
            if isinstance(e, KeyboardInterrupt):
                raise
            outcome, found = "exception", None
            faults.append("".join(traceback.format_exception(type(e), e, e.__traceback__)))
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
    if found is not None:
        faults += faults_of_answers(found)
        others += other_answers(whole, found, case)
        if of_patches is not None:
            others += other_patch_answers(whole, *of_patches, case)
        if promise(case) is not Promise.NONE:
            faults += others
    return {"outcome": outcome, "faults": faults[:_MAX_FAULTS], "others": others[:_MAX_FAULTS]}


def main(arguments: Sequence[str]) -> None:
    """The command line above."""
    path, name, first, count, step, *kinds = arguments
    faulthandler.enable()
    signal.signal(signal.SIGPROF, _hang)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    whole = Whole(Path(path))
    with tempfile.TemporaryDirectory(prefix="drgn-tools-fuzz-") as folder:
        victim = Victim(whole.file, Path(folder) / "vmcore")
        seeds = range(int(first), int(first) + int(count) * int(step), int(step))
        for number, seed in enumerate(seeds):
            say({"begin": seed})
            began = time.process_time()
            case = damage(whole, name, seed, kinds)
            said = check(whole, victim, case)
            if number % 8 == 0:
                gc.collect()
            say(
                {
                    "seed": seed,
                    "kind": case.kind,
                    "touched": sorted({o for o in case.touched if isinstance(o, str)}),
                    "tasks": sum(isinstance(o, int) for o in case.touched),
                    "headers": case.is_in_headers,
                    "what": case.what,
                    "seconds": round(time.process_time() - began, 3),
                    **said,
                }
            )
            if address_space() > _RESTART_BYTES:
                break


def address_space() -> int:
    """Return the size of the address space of this process, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def say(line: dict[str, Any]) -> None:
    """Print a line for the parent process."""
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
