# SPDX-License-Identifier: LGPL-2.1-or-later
"""What can be said on the command line, and what is wrong with it: all known before a dump is opened."""

from __future__ import annotations

import argparse
import os
import re
import shlex
from collections.abc import Sequence
from typing import Any, Callable, Optional

from .. import __version__
from ..analysis.queries import SORT_KEYS, STATES, Selection, parse_pids
from ..errors import UsageError
from ..records import Verdict
from ..terminal.parser import Arguments, Parser, add_log_options, checked_format, positive

__all__ = ("parse_arguments", "parse_repl_arguments")

_EXIT_CODES = """\
exit codes:
  0   looked, nothing to report
  1   an unreliable task was found (only with tasks --check)
  2   the command line is wrong, or there is no such task
  3   the core, kernel or guest cannot be opened, or is no Linux kernel
  4   no usable type information, or symbols of another kernel
  5   looked, but some tasks could not be read; with tasks --check also: could not be judged
  70  a bug of ours
  74  the result could not be written
  130 interrupted (Ctrl-C); 141 the reader of the output went away
"""

_TOP_EPILOG = f"""\
examples:
  drgn-tools demo                                 try it: a small real vmcore comes with the package
  drgn-tools tasks -c vmcore                      every task: can its stack be trusted, and why not?
  drgn-tools tasks -c vmcore --verdict unreliable --frames
  drgn-tools stack -c vmcore                      what crashed the machine, as an oops shows it
  drgn-tools stack -c vmcore 51                   one stack in full, with all saved registers
  sudo drgn-tools tasks -k --check                the running kernel; exit code 1 if one is unreliable
  drgn-tools groups -c vmcore --format folded | flamegraph.pl > stacks.svg
  drgn-tools fleet run /var/crash -o fleet        many vmcores, into one dataset
  drgn-tools tasks -c vmcore --frames --format json | jq '.tasks[] | select(.verdict == "unreliable")'

Debuginfo is not needed: types and symbols come from the dump itself (BTF, kallsyms).
"drgn-tools COMMAND --help" tells more of a command.

{_EXIT_CODES}"""

_SUMMARIES = {
    "tasks": "list every task: state, verdict on its stack, why",
    "stack": "show stacks in full, with all saved registers",
    "regs": "list every saved pt_regs",
    "groups": "fold identical stacks together, with counts",
}

_TASKS_COLUMNS = """\
columns:
  S         state, as in ps(1)
  VERDICT   what stack_trace_save_tsk_reliable() of the kernel answers: reliable, unreliable, or
            unknown when it cannot be told (the task runs, memory is missing, another unwinder)
  WHY       the reason, or in parentheses what is special about the task
  DEPTH     frames in the kernel
  REGS      a letter for each saved pt_regs, innermost first: k kernel mode, u user mode
  FUNCTION  innermost function that is not the scheduler itself
"""

_TASKS_EPILOG = f"""\
{_TASKS_COLUMNS}
All filters given must hold. Each may be repeated, and --pid, --state and --verdict take lists
(1,5-9): a task then needs to match one of the values.

--check makes the exit code 1 if a task that is listed is unreliable, and 5 if one that the filters
but --verdict choose could not be judged: it is unknown, and not because it runs. 1 wins over 5.

examples:
  drgn-tools tasks -c vmcore --state D --frames
  drgn-tools tasks -c vmcore --function 'vfs_*' --comm 'postgres*'
  drgn-tools tasks -c vmcore --sort verdict | head -20
  drgn-tools tasks -c vmcore --check -q > /dev/null && echo every stack off its CPU can be trusted
"""

_STACK_EPILOG = """\
Without a PID: of a vmcore the task that crashed the machine, the one that ran into panic().

A pt_regs is drawn where it lies: above it, what the CPU did after it was interrupted; below it,
what was interrupted. "=>" marks the frame on which the verdict fell.

examples:
  drgn-tools stack -c vmcore                      what crashed it
  drgn-tools stack -c vmcore 51
  drgn-tools stack -c vmcore 0xff1100000261d000 --format json
  drgn-tools stack -c vmcore --all --format csv > frames.csv
"""

_REGS_EPILOG = """\
examples:
  drgn-tools regs -c vmcore --mode kernel          what was interrupted in the kernel
  drgn-tools regs -c vmcore --comm 'nginx*' --format csv > regs.csv     all registers, a column each
"""

_GROUPS_EPILOG = """\
Stacks are the same when their frames in the kernel are, function by function and offset by offset,
and so are verdict and reason. "folded" leaves the offsets out: functions, outermost first.

examples:
  drgn-tools groups -c vmcore --state D
  drgn-tools groups -c vmcore --format folded --by-comm | flamegraph.pl > stacks.svg
"""

_SHELL_EPILOG = """\
prog, task_stack, task_stacks and kernel_info are there, and all that drgn has. When stdin is no
terminal, what it says is run as a script.

examples:
  drgn-tools shell -c vmcore
  >>> task_stack(51)
  echo 'print(task_stack(51).verdict)' | drgn-tools shell -c vmcore
"""


_REPL_EPILOG = """\
Pipes and redirects work as in a shell: %tasks | grep unreliable, %tasks > file. What was shown is
in _ afterwards, as a list of records.
"""


def parse_arguments(argv: Sequence[str]) -> Arguments:
    """Understand and check *argv*.

    :raises UsageError: something is wrong with it.
    :raises SystemExit: ``--help`` or ``--version`` was asked for, and printed.
    :raises OutputError: it could not be; :raises ReaderGoneError: nobody read it.
    """
    if argv[:1] == ["fleet"]:
        from .fleet_arguments import parse_fleet_arguments

        return _quietened(parse_fleet_arguments(argv[1:]))
    args = _parser().parse_args(argv, Arguments())
    if args.command == "fleet":
        raise UsageError("options of fleet come after it: drgn-tools fleet run|report ...")
    args.symbols = [*args.symbols, *args.symbols_after]
    _check_source(args)
    _check_command(args)
    if args.command == "stack" and not (
        args.core or args.all or args.on_cpu or args.filters or args.which
    ):
        raise UsageError("stack of which task? give PIDs, addresses of tasks, --on-cpu or --all")
    if args.command == "tasks":
        _check_watch(args)
    return _quietened(args)


def _quietened(args: Arguments) -> Arguments:
    if args.quiet:
        args.log_level = "none"
    return args


def parse_repl_arguments(command: str, argv: Sequence[str]) -> Arguments:
    """Understand and check what follows ``%command`` in drgn's REPL.

    The options of the command line but for those that choose the kernel, which
    is open already, and the exit code. ``%stack`` needs no task.

    :raises UsageError: something is wrong with it.
    :raises SystemExit: ``--help`` was asked for, and printed.
    :raises ReaderGoneError: nobody read it.
    """
    columns = f"{_TASKS_COLUMNS}\n" if command == "tasks" else ""
    parser = Parser(
        prog=f"%{command}",
        description=f"{_SUMMARIES[command]}.",
        epilog=f"{columns}{_REPL_EPILOG}",
    )
    parser.set_defaults(command=command)
    _ADD_OPTIONS[command](parser)
    _add_format(parser, None)
    args = parser.parse_args(argv, Arguments())
    _check_command(args)
    return args


class _Once(argparse.Action):
    # Of two, the last would win without a word, and the result be another's.
    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: Optional[str] = None,
    ) -> None:
        before = getattr(namespace, self.dest, None)
        if before not in (None, values):
            raise UsageError(f"{option_string} {before} and {option_string} {values}: give one")
        setattr(namespace, self.dest, values)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="drgn-tools",
        description="What is every task's stack, can it be trusted, and what did the CPU save on it?\n"
        "For a vmcore, the running kernel or a QEMU guest.",
        epilog=_TOP_EPILOG,
    )
    parser.add_argument("--version", action="version", version=f"drgn-tools {__version__}")
    _add_common(parser, before=True)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def add(name: str, summary: str, epilog: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=summary, description=f"{summary}.", epilog=epilog)
        if name in _ADD_OPTIONS:
            _ADD_OPTIONS[name](command)
        _add_common(command, before=False)
        return command

    tasks = add("tasks", _SUMMARIES["tasks"], _TASKS_EPILOG)
    add("stack", _SUMMARIES["stack"], _STACK_EPILOG)
    add("regs", _SUMMARIES["regs"], _REGS_EPILOG)
    add("groups", _SUMMARIES["groups"], _GROUPS_EPILOG)
    demo = add("demo", "run tasks on the small real vmcore that comes with drgn-tools", "")
    add("shell", "start drgn's REPL on the kernel, with drgn-tools imported", _SHELL_EPILOG)
    commands.add_parser("fleet", help="audit many kernels into one dataset, and report on it")
    _add_watch(tasks)
    for command in (tasks, demo):
        command.add_argument(
            "--check",
            action="store_true",
            help="exit code 1 if a listed task is unreliable, 5 if one cannot be judged",
        )
    return parser


# ---- options


def _add_common(parser: argparse.ArgumentParser, before: bool) -> None:
    # Understood before the command and after it. Only the ones before have
    # defaults, or the parser of the command would undo what was given there.
    def default(value: object) -> object:
        return value if before else argparse.SUPPRESS

    source = parser.add_argument_group("kernel (one of these is needed)")
    source.add_argument(
        "-c",
        "--core",
        metavar="PATH",
        action=_Once,
        default=default(None),
        help="vmcore: ELF or makedumpfile's format, also compressed with xz, zstd or gzip",
    )
    source.add_argument(
        "-k", "--kernel", action="store_true", default=default(False), help="the running kernel"
    )
    source.add_argument(
        "--qemu",
        metavar="SOCK",
        action=_Once,
        default=default(None),
        help="QEMU guest with a QMP socket",
    )
    types = parser.add_argument_group("types and symbols")
    types.add_argument(
        "-s",
        "--symbols",
        metavar="PATH",
        action="append",
        dest="symbols" if before else "symbols_after",
        default=default([]),
        help="vmlinux or module with DWARF, instead of the dump's own BTF; may be repeated",
    )
    types.add_argument(
        "--vmcoreinfo",
        metavar="PATH",
        default=default(None),
        help="file to take VMCOREINFO from, instead of the dump",
    )
    output = parser.add_argument_group("output")
    _add_format(output, default(None))
    add_log_options(output, before)
    if before:
        parser.set_defaults(symbols_after=[])


def _add_format(parser: argparse._ActionsContainer, default: object) -> None:
    parser.add_argument(
        "--format",
        metavar="FORMAT",
        default=default,
        help="table (default), json, jsonl, csv, or any format of tabulate (github, html ...); "
        "stack also has text (its default), groups also folded",
    )


def _add_filters(parser: argparse.ArgumentParser) -> None:
    _add_max_tasks(parser)
    filters = parser.add_argument_group("which tasks (default: all)")
    for name, metavar, what in (
        ("pid", "PIDS", "thread IDs and ranges of them: 1,5-9"),
        ("comm", "GLOB", "name of the task"),
        ("state", "LETTERS", f"state: letters of {STATES}"),
        ("function", "GLOB", "a function anywhere on the stack"),
        ("verdict", "VERDICT", "reliable, unreliable, unknown"),
    ):
        filters.add_argument(f"--{name}", metavar=metavar, action="append", default=[], help=what)


def _add_pids(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pids", metavar="PIDS", nargs="*", help="the same as --pid PIDS")


def _add_tasks(parser: argparse.ArgumentParser) -> None:
    _add_pids(parser)
    _add_filters(parser)
    parser.add_argument("--frames", action="store_true", help="add the frames of each stack")
    parser.add_argument(
        "--sort",
        metavar="KEY",
        choices=tuple(SORT_KEYS),
        help=f"order by {', '.join(SORT_KEYS)} (default: the kernel's order)",
    )


def _add_watch(parser: argparse.ArgumentParser) -> None:
    watch = parser.add_argument_group("of a running kernel")
    watch.add_argument(
        "--watch",
        metavar="SECONDS",
        type=_interval,
        default=None,
        help="look again every so often, and show what has changed: whose verdict is another",
    )
    watch.add_argument(
        "--until-reliable",
        action="store_true",
        help="end the watch when each task of the first look was reliable once, or has exited",
    )


def _interval(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds <= _MAX_INTERVAL_S:
        raise UsageError(f"--watch takes seconds, more than 0: {text!r} is none")
    return seconds


_MAX_INTERVAL_S = 24 * 60 * 60.0


def _add_max_tasks(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--max-tasks",
        metavar="N",
        type=positive("--max-tasks"),
        default=None,
        help="look at no more than N tasks; exit code 5 if there are more",
    )


def _add_stack(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "which",
        metavar="PID",
        nargs="*",
        type=_task,
        help="thread ID, or address of a task_struct (0xff1100000261d000, 0x may be left out)",
    )
    _add_filters(parser)
    parser.add_argument("--all", action="store_true", help="every task")
    parser.add_argument(
        "--on-cpu",
        action="store_true",
        help="the tasks that are on a CPU, the one that crashed the machine first",
    )


def _add_regs(parser: argparse.ArgumentParser) -> None:
    _add_pids(parser)
    _add_filters(parser)
    parser.add_argument(
        "--mode", choices=("kernel", "user"), help="only registers saved in this mode"
    )


def _add_groups(parser: argparse.ArgumentParser) -> None:
    _add_filters(parser)
    parser.add_argument(
        "--by-comm", action="store_true", help="folded: put the name of the task first"
    )


_ADD_OPTIONS: dict[str, Callable[[argparse.ArgumentParser], None]] = {
    "tasks": _add_tasks,
    "stack": _add_stack,
    "regs": _add_regs,
    "groups": _add_groups,
    "demo": _add_tasks,
}


# ---- checks


def _check_command(args: Arguments) -> None:
    args.format = checked_format(args.format, args.command)
    if args.command in ("tasks", "stack", "regs", "groups", "demo"):
        args.pid = [*args.pid, *getattr(args, "pids", [])]
        args.selection = _selection(args)
        args.filters = _filters(args)
    if args.command == "groups" and args.by_comm and args.format != "folded":
        raise UsageError("--by-comm is of --format folded: give both")
    if (
        args.command == "stack"
        and bool(args.which) + args.all + args.on_cpu + bool(args.filters) > 1
    ):
        raise UsageError("give PIDs, --on-cpu, --all or filters such as --comm: one of these")


def _check_watch(args: Arguments) -> None:
    if args.watch is None:
        if args.until_reliable:
            raise UsageError("--until-reliable is of --watch SECONDS: give both")
        return
    if args.core is not None:
        raise UsageError("--watch is of a kernel that runs: nothing changes in a vmcore")
    if args.frames or args.sort is not None:
        raise UsageError("--watch shows changes as they come: --frames and --sort are of the list")
    if args.format not in ("table", "jsonl"):
        raise UsageError(f"--watch has no format {args.format}: there are table and jsonl")


def _check_source(args: Arguments) -> None:
    given = [
        name
        for name, value in (("-c", args.core), ("-k", args.kernel), ("--qemu", args.qemu))
        if value not in (None, False)
    ]
    if args.command == "demo":
        if given:
            raise UsageError(f"demo brings its own vmcore; for yours: drgn-tools tasks {given[0]}")
    elif not given:
        raise UsageError(
            "which kernel? give -c VMCORE, -k for the running kernel, or --qemu SOCKET"
        )
    elif len(given) > 1:
        raise UsageError(f"{' and '.join(given)} exclude each other: give one kernel")


def _selection(args: Arguments) -> Selection:
    return Selection(
        pids=tuple(pids for text in args.pid for pids in parse_pids(text)),
        comms=tuple(args.comm),
        states=frozenset(letter for text in args.state for letter in _states(text)),
        functions=tuple(map(_function, args.function)),
        verdicts=frozenset(verdict for text in args.verdict for verdict in _verdicts(text)),
    )


_FILTERS = ("pid", "comm", "state", "function", "verdict")


def _filters(args: Arguments) -> str:
    return " ".join(
        f"--{name} {shlex.quote(text)}" for name in _FILTERS for text in getattr(args, name)
    )


def _function(pattern: str) -> str:
    name, plus, _ = pattern.partition("+")
    if plus:
        raise UsageError(
            f"--function takes no offset: leave it out of {pattern!r}, as in --function {name}"
        )
    return pattern


def _states(text: str) -> str:
    letters = text.replace(",", "")
    unknown = [letter for letter in letters if letter not in STATES]
    if unknown or not letters:
        raise UsageError(f"{text!r} is no state: give letters of {STATES}, as in --state D")
    return letters


def _verdicts(text: str) -> list[Verdict]:
    try:
        return [Verdict(name) for name in text.split(",")]
    except ValueError:
        names = ", ".join(verdict.value for verdict in Verdict)
        raise UsageError(f"{text!r} is no verdict: there are {names}") from None


_TASK = re.compile(
    r"(?P<pid>[0-9]{1,7})|0x(?P<hex>[0-9a-f]{1,16})|(?P<bare>[0-9a-f]{8}|[0-9a-f]{16})",
    re.IGNORECASE,
)
"""A PID, an address, or an address without 0x as tables and crash print it: no PID is as long."""


def _task(text: str) -> int:
    match = _TASK.fullmatch(text)
    if match is None and os.path.exists(text):
        raise UsageError(f"{text!r} is a file, and no task: is it the vmcore? Then -c {text}")
    if match is None:
        raise UsageError(f"{text!r} is neither a PID nor the address of a task (0x...)")
    return int(match["pid"]) if match["pid"] else int(match["hex"] or match["bare"], 16)
