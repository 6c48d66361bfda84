# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command line: parse, call, render.

What takes long to import (drgn, tabulate) is imported where it is used: after
the arguments were understood, so that a mistake in them and ``--help`` cost
nothing, and before that no dump is opened.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Callable, Optional, Union

from ..errors import (
    EXIT_BUG,
    EXIT_FINDINGS,
    EXIT_OK,
    EXIT_PARTIAL,
    DrgnToolsError,
    TaskNotFoundError,
    UsageError,
    describe_bug,
)
from ..records import KernelAudit, KernelInfo, Reason, TaskStack, Verdict
from ..terminal.console import (
    Console,
    OutputError,
    ReaderGoneError,
    be_lenient,
    discard,
    is_terminal,
    table_width,
    write_lines,
)
from ..terminal.parser import Arguments
from .arguments import parse_arguments

if TYPE_CHECKING:
    from drgn import Program

    from ..analysis.audit import AuditUnderWay
    from ..analysis.queries import Selection
    from ..render.views import View

    Audit = Union[KernelAudit, AuditUnderWay]

__all__ = ("main",)

logger = logging.getLogger("drgn_tools")

EXIT_INTERRUPTED = 128 + 2
"""Ctrl-C: what a shell reports of a program that SIGINT ended."""
EXIT_READER_GONE = 128 + 13
"""The reader of our output left: what a shell reports for SIGPIPE."""


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run one command line.

    :param argv: arguments, those of the process by default.
    :return: the exit code, see ``docs/commands.md``.
    """
    try:
        return _main(sys.argv[1:] if argv is None else argv)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except ReaderGoneError:
        discard(sys.stdout)
        return EXIT_READER_GONE


def _main(argv: Sequence[str]) -> int:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            be_lenient(stream)
    try:
        args = parse_arguments(argv)
        write_lines(())  # is there a stdout at all? Nothing was done yet
    except SystemExit as end:  # --help, --version
        return int(end.code or 0)
    except DrgnToolsError as error:
        return _end_with(error, Console())
    console = Console(args.quiet)
    with _log_to(console, args.log_level):
        return _fenced(args, console)


def _fenced(args: Arguments, console: Console) -> int:
    try:
        return COMMANDS[args.command](args, console)
    except DrgnToolsError as error:
        return _end_with(error, console)
    except ReaderGoneError:
        raise
    # The one place where everything is caught: nobody but us is helped by a
    # traceback, and a script can tell a bug of ours from a broken dump.
    except Exception as error:
        logger.debug("traceback of the bug:", exc_info=True)
        console.problem("bug", f"{describe_bug(error)}; --log-level debug shows the traceback")
        return EXIT_BUG
    finally:
        console.end_progress()


def _end_with(error: DrgnToolsError, console: Console) -> int:
    console.problem("error", str(error))
    if isinstance(error, OutputError):
        discard(sys.stdout)
    return error.exit_code


class _ConsoleHandler(logging.Handler):
    # Messages of the library and of drgn, as ours look.
    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        for line in self.format(record).split("\n"):
            self._console.problem(record.levelname.lower(), line)


@contextlib.contextmanager
def _log_to(console: Console, level: str) -> Iterator[None]:
    handler = _ConsoleHandler(console)
    root = logging.getLogger()
    root.addHandler(handler)
    for name in ("drgn", logger.name):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1 if level == "none" else level.upper())
    try:
        yield
    finally:
        root.removeHandler(handler)


# ---- from the arguments to the records


def _open(args: Arguments, console: Console) -> Program:
    from ..program.open import open_program

    def unpacking(done: int, total: int) -> None:
        percent = done * 100 // max(total, 1)
        console.progress(f"unpacking {os.path.basename(args.core or '')}: {percent}%")

    try:
        return open_program(
            core=args.core,
            kernel=args.kernel,
            qemu=args.qemu,
            symbols=args.symbols,
            vmcoreinfo=args.vmcoreinfo,
            progress=unpacking,
        )
    finally:
        console.end_progress()


def _audit(args: Arguments, console: Console) -> Audit:
    """What was asked of the kernel that was opened; its records can be taken once."""
    from ..analysis.audit import audit_under_way
    from ..program.open import input_error_if_vanished

    prog = _open(args, console)
    began = time.monotonic()
    # Where rows come out as they are made, a line that comes and goes would be in their way.
    shown = not (args.format in _STREAMED and is_terminal(sys.stdout))
    try:
        with input_error_if_vanished(prog):
            audit = audit_under_way(
                prog, progress=_count_on(console) if shown else None, max_tasks=args.max_tasks
            )
    finally:
        console.end_progress()
    _introduce(audit.kernel, args, console)
    if args.core is None:
        console.note(f"read in {time.monotonic() - began:.2f} s")
    return audit


_STREAMED = frozenset(("json", "jsonl", "csv", "text"))
"""Formats whose rows do not wait for the last one."""


def _count_on(console: Console) -> Callable[[int], None]:
    return lambda done: console.progress(f"{done} tasks")


def _taken(audit: Audit, console: Console) -> Iterator[TaskStack]:
    """The records of an audit, and no progress any more behind the last."""
    try:
        yield from audit
    finally:
        console.end_progress()


def _introduce(kernel: KernelInfo, args: Arguments, console: Console) -> None:
    from ..render.summary import kernel_line

    console.note(kernel_line(kernel))
    if args.format != "text":  # which has them above the stack
        for line in kernel.last_words:
            console.note(f"log: {line}")
    for note in kernel.notes:
        console.note(f"note: {note}")


class _Unjudged:
    """Counts tasks without an answer that should have one, on their way to be selected."""

    def __init__(self, selection: Selection) -> None:
        # "--check --verdict unreliable" must not be content where there are no verdicts.
        self._selection = selection.of_any_verdict()
        self.reasons: Counter[Reason] = Counter()
        self.why: dict[Reason, str] = {}

    def __bool__(self) -> bool:
        return bool(self.reasons)

    def over(self, tasks: Iterable[TaskStack]) -> Iterator[TaskStack]:
        """*tasks* as they are, counted."""
        from ..analysis.queries import KERNEL_WIDE

        for task in tasks:
            reason = task.reason
            if (
                task.verdict is Verdict.UNKNOWN
                and reason is not None
                and reason is not Reason.RUNNING
                and task in self._selection
            ):
                self.reasons[reason] += 1
                if reason in KERNEL_WIDE and task.why is not None:
                    self.why[reason] = task.why
            yield task


class _Tally:
    """Counts tasks on their way to a renderer, and knows what the exit code will be."""

    def __init__(self, console: Console, problems: Sequence[str] = ()) -> None:
        self._console = console
        self._problems = problems  # complete when the last task has come
        self._verdicts: Counter[Verdict] = Counter()
        self._unreadable = 0

    @property
    def total(self) -> int:
        """How many there were."""
        return sum(self._verdicts.values())

    def over(self, tasks: Iterable[TaskStack]) -> Iterator[TaskStack]:
        """*tasks* as they are, counted."""
        for task in tasks:
            self._verdicts[task.verdict] += 1
            self._unreadable += task.reason is Reason.UNREADABLE
            yield task

    def finish(self, check: bool = False, unjudged: Optional[_Unjudged] = None) -> int:
        """Say what there is to say; the exit code.

        A finding is certain whatever could not be read, so it goes first.

        :param check: is an unreliable task a finding?
        :param unjudged: counts of tasks without an answer that should have one.
        """
        from ..render.summary import unjudged_line, unreadable_line, verdict_line

        self._console.note(verdict_line(self._verdicts))
        for problem in self._problems:
            self._console.problem("warning", problem)
        if unjudged:
            self._console.problem("warning", unjudged_line(unjudged.reasons, unjudged.why))
        elif self._unreadable:
            self._console.problem("warning", unreadable_line(self._unreadable))
        if check and self._verdicts[Verdict.UNRELIABLE]:
            return EXIT_FINDINGS
        return EXIT_PARTIAL if self._problems or self._unreadable or unjudged else EXIT_OK


# ---- the commands


def _tasks(args: Arguments, console: Console) -> int:
    if args.watch is not None:
        return _watch(args.watch, args, console)
    return _list_tasks(_audit(args, console), args, console)


def _list_tasks(audit: Audit, args: Arguments, console: Console) -> int:
    from ..analysis.queries import sort_tasks
    from ..render import views

    tally, unjudged = _Tally(console, audit.problems), _Unjudged(args.selection)
    found = _taken(audit, console)
    tasks: Iterable[TaskStack] = tally.over(
        args.selection.of(unjudged.over(found) if args.check else found)
    )
    if args.sort is not None:
        tasks = sort_tasks(tasks, args.sort)
    _show(args, views.TASKS_WITH_FRAMES if args.frames else views.TASKS, audit, tasks)
    _warn_of_nothing(args, console, tally)
    return tally.finish(args.check, unjudged)


def _watch(every_s: float, args: Arguments, console: Console) -> int:
    """Shows what changes on a running kernel, until it is interrupted or all has been reliable."""
    from ..analysis.audit import audit_kernel
    from ..analysis.changes import Watch
    from ..program.open import input_error_if_vanished
    from ..render.changes import change_lines

    prog = _open(args, console)
    watch = Watch()
    for look in itertools.count(1):
        began = time.monotonic()
        with input_error_if_vanished(prog):
            audit = audit_kernel(prog, progress=_count_on(console), max_tasks=args.max_tasks)
        console.end_progress()
        if look == 1:
            _introduce(audit.kernel, args, console)
        selected = list(args.selection.of(audit.tasks))
        write_lines(change_lines(watch.look(selected, began), time.time(), args.format))
        if args.until_reliable and not watch.waiting:
            break
        console.progress(f"look {look}: {len(selected)} tasks, {watch.waiting} not reliable yet")
        time.sleep(max(0.0, began + every_s - time.monotonic()))
    tally, unjudged = _Tally(console, audit.problems), _Unjudged(args.selection)
    for _ in tally.over(selected):
        pass
    for _ in unjudged.over(audit if args.check else ()):
        pass
    return tally.finish(args.check, unjudged)


def _warn_of_nothing(args: Arguments, console: Console, tally: _Tally) -> None:
    if args.filters and not tally.total:
        console.problem("warning", f"no task matches {args.filters}")


def _stack(args: Arguments, console: Console) -> int:
    from ..analysis.queries import tasks_on_cpu
    from ..render import views
    from ..render.stack import draw_stacks

    audit: Audit
    selected: Iterable[TaskStack]
    if args.all or args.on_cpu or args.filters:
        audit = _audit(args, console)
        found = _taken(audit, console)
        selected = tasks_on_cpu(found) if args.on_cpu else args.selection.of(found)
    else:
        audit = _audit_of(args, console)
        selected = audit
    tally = _Tally(console, audit.problems)
    tasks = tally.over(selected)
    if args.format == "text":
        write_lines(draw_stacks(tasks, audit.kernel))
    else:
        _show(args, views.FRAMES, audit, tasks)
    _warn_of_nothing(args, console, tally)
    return tally.finish()


def _audit_of(args: Arguments, console: Console) -> KernelAudit:
    # Only the tasks that are asked for. All are found before any is shown.
    from ..analysis.audit import crashed_stack, kernel_info, task_stack
    from ..program.open import input_error_if_vanished

    prog = _open(args, console)
    with input_error_if_vanished(prog):
        if args.which:
            tasks = tuple(task_stack(prog, which) for which in args.which)
        else:
            try:
                tasks = (crashed_stack(prog),)
            except TaskNotFoundError as error:
                raise TaskNotFoundError(
                    f"{error} by PID or address, or give --on-cpu, --all or a filter"
                ) from None
        kernel = kernel_info(prog)
    _introduce(kernel, args, console)
    return KernelAudit(kernel, tasks)


def _regs(args: Arguments, console: Console) -> int:
    from ..analysis.queries import saved_regs
    from ..render import views

    audit = _audit(args, console)
    tally = _Tally(console, audit.problems)
    tasks = tally.over(args.selection.of(_taken(audit, console)))
    user_mode = None if args.mode is None else args.mode == "user"
    _show(args, views.regs_view(audit.kernel.arch), audit, saved_regs(tasks, user_mode))
    _warn_of_nothing(args, console, tally)
    return tally.finish()


def _groups(args: Arguments, console: Console) -> int:
    from ..analysis.queries import group_stacks
    from ..render import views
    from ..render.folded import folded_lines

    audit = _audit(args, console)
    tally = _Tally(console, audit.problems)
    tasks = tally.over(args.selection.of(_taken(audit, console)))
    if args.format == "folded":
        write_lines(folded_lines(tasks, args.by_comm))
    else:
        _show(args, views.GROUPS, audit, group_stacks(tasks))
    _warn_of_nothing(args, console, tally)
    return tally.finish()


def _demo(args: Arguments, console: Console) -> int:
    from ..data import demo_vmcore
    from ..render.guide import after_tasks, before_tasks

    args.core = str(demo_vmcore())
    audit = _audit(args, console)
    if args.format != "table":
        return _list_tasks(audit, args, console)
    audit = KernelAudit(audit.kernel, tuple(_taken(audit, console)), tuple(audit.problems))
    write_lines(before_tasks(audit.kernel))
    args.sort = args.sort or "verdict"
    code = _list_tasks(audit, args, console)
    shown = KernelAudit(audit.kernel, tuple(args.selection.of(audit.tasks)))
    write_lines(after_tasks(shown, os.path.relpath(args.core), _own_name()))
    return code


def _own_name() -> str:
    # For commands to copy: one that works in the shell this came from.
    name = os.path.basename(sys.argv[0])
    if name == "__main__.py":
        return f"{os.path.basename(sys.executable)} -m drgn_tools"
    if not name or shutil.which(name):
        return name or "drgn-tools"
    return os.path.relpath(sys.argv[0])


def _show(args: Arguments, view: View, audit: Audit, records: Iterable[object]) -> None:
    from ..render.views import render

    write_lines(
        render(view, args.format, audit.kernel, records, audit.problems, table_width(sys.stdout))
    )


def _shell(args: Arguments, console: Console) -> int:
    from ..analysis.audit import kernel_info
    from . import shell

    if sys.stdin is None:
        raise UsageError("shell reads from standard input, and that is closed")
    is_interactive = is_terminal(sys.stdin)
    if is_interactive:
        shell.choose_prompt()
    prog = _open(args, console)
    _introduce(kernel_info(prog), args, console)
    if is_interactive:
        shell.run_interactive(prog)
        return EXIT_OK
    code = shell.run_stdin(prog)
    write_lines(())
    return code


def _fleet(args: Arguments, console: Console) -> int:
    from .fleet import fleet  # with what the extra brings

    return fleet(args, console)


COMMANDS = {
    "tasks": _tasks,
    "stack": _stack,
    "regs": _regs,
    "groups": _groups,
    "demo": _demo,
    "shell": _shell,
    "fleet": _fleet,
}
