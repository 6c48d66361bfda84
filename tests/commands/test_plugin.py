# SPDX-License-Identifier: LGPL-2.1-or-later
"""drgn's plugin in drgn itself: the REPL through a terminal, commands, types without debuginfo, and what it costs."""

from __future__ import annotations

import fcntl
import importlib.metadata
import json
import logging
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Callable

import drgn
import pytest
from drgn.commands import CommandError, run_command

from drgn_tools import TaskStack, Verdict, task_stacks
from drgn_tools.analysis.queries import StackGroup, TaskRegs, waiting_function
from drgn_tools.commands import plugin

from ..conftest import lab_file

ROOT = Path(__file__).parents[2]
PROMPT = b">>> "
SAID = "found no debuginfo: types and symbols are the BTF and kallsyms of the kernel itself"

# Installed or not, the plugin of this tree and no other.
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(ROOT),
    "DRGN_PLUGINS": "encoded_stacks=drgn_tools.commands.plugin",
    "DRGN_DISABLE_PLUGINS": "encoded_stacks",
}


@pytest.fixture(scope="module")
def stacks(demo_program: drgn.Program) -> list[TaskStack]:
    return list(task_stacks(demo_program))


@pytest.fixture(scope="module")
def interrupted(stacks: list[TaskStack]) -> TaskStack:
    """An unreliable task with registers of both modes."""
    return next(
        s
        for s in stacks
        if s.verdict is Verdict.UNRELIABLE and {r.user_mode for r in s.regs} == {True, False}
    )


# ---- the REPL, through a terminal


class Terminal:
    """drgn's REPL with somebody at the keyboard."""

    def __init__(self, *args: str, history: Path) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            environment = {
                **ENVIRONMENT,
                "TERM": "dumb",
                "PYTHON_BASIC_REPL": "1",
                "XDG_STATE_HOME": str(history),
            }
            os.execve(sys.executable, [sys.executable, "-m", "drgn", *args], environment)
        # Wide, or readline folds what is typed.
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("4H", 100, 250, 0, 0))
        self.banner = self._until_prompt()

    def type(self, line: str) -> str:
        """What the REPL answers to *line*."""
        os.write(self.fd, line.encode() + b"\n")
        echo, _, answer = self._until_prompt().partition("\n")
        assert echo.strip() == line
        return answer.rstrip("\n")

    def _until_prompt(self) -> str:
        text = b""
        deadline = time.monotonic() + 60
        while not text.endswith(PROMPT):
            ready, _, _ = select.select([self.fd], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"no prompt after {text!r}"
            try:
                text += os.read(self.fd, 1 << 16)
            except OSError:  # it went away
                pytest.fail(f"the REPL ended: {text.decode(errors='replace')}")
        return text[: -len(PROMPT)].decode().replace("\r\n", "\n")

    def close(self) -> int:
        """Leave with Ctrl-D; the exit code."""
        os.write(self.fd, b"\x04")
        with suppress(OSError):
            while os.read(self.fd, 1 << 16):
                pass
        _, status = os.waitpid(self.pid, 0)
        os.close(self.fd)
        return status


@pytest.fixture(scope="module")
def terminal(demo_core: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    # A plain drgn -c CORE, and no debuginfo anywhere.
    terminal = Terminal("-c", demo_core, history=tmp_path_factory.mktemp("history"))
    yield terminal
    assert terminal.close() == 0


@pytest.mark.parametrize(
    ("call", "says"),
    [
        ('"livepatch_blockers.py"', "required: FUNCTION"),
        ('"livepatch_blockers.py", "no_such_function"', "error: this kernel has no function"),
        ('"syscalls.py", "--help"', "Which system calls are the tasks in"),
        ('"syscalls.py", "read"', "w-pipe-read"),
    ],
)
def test_repl_goes_on_after_a_script_of_contrib(terminal: Terminal, call: str, says: str) -> None:
    folder = ROOT / "contrib"
    call = call.replace('"', f'"{folder}/', 1)
    assert says in terminal.type(f"execscript({call})")
    assert terminal.type("1 + 1") == "2"


def test_repl_says_that_no_task_matches(terminal: Terminal) -> None:
    assert "warning: no task matches --pid 999999" in terminal.type("%tasks 999999")
    assert terminal.type("_") == "[]"


def test_repl_says_once_where_types_come_from(terminal: Terminal) -> None:
    assert terminal.banner.count("BTF") == 1
    assert SAID in terminal.banner
    assert "Traceback" not in terminal.banner


def test_repl_drgns_own_helpers_work_without_debuginfo(
    terminal: Terminal, stacks: list[TaskStack], interrupted: TaskStack
) -> None:
    pids = {s.pid for s in stacks} - {0}
    assert terminal.type("len(list(for_each_task()))") == str(len(pids))
    comm = terminal.type(f"find_task({interrupted.pid}).comm.string_().decode()")
    assert comm == repr(interrupted.comm)


def test_repl_tasks_lists_every_task_once(terminal: Terminal, stacks: list[TaskStack]) -> None:
    header, *rows = terminal.type("%tasks").splitlines()
    assert header.split()[:5] == ["PID", "COMM", "S", "CPU", "VERDICT"]
    assert [int(row.split()[0]) for row in rows] == [s.pid for s in stacks]
    assert terminal.type("len(_)") == str(len(stacks))


def test_repl_pipes(terminal: Terminal, stacks: list[TaskStack]) -> None:
    unreliable = [s for s in stacks if s.verdict is Verdict.UNRELIABLE]
    rows = terminal.type("%tasks | grep unreliable").splitlines()
    assert [int(row.split()[0]) for row in rows] == [s.pid for s in unreliable]
    assert len(terminal.type("%tasks | head -1").splitlines()) == 1


def test_repl_redirects(terminal: Terminal, stacks: list[TaskStack], tmp_path: Path) -> None:
    file = tmp_path / "tasks"
    assert terminal.type(f"%tasks > {file}") == ""
    assert len(file.read_text().splitlines()) == 1 + len(stacks)


def test_repl_stack_draws_and_keeps_the_record(terminal: Terminal, interrupted: TaskStack) -> None:
    drawn = terminal.type(f"%stack {interrupted.pid}")
    assert drawn == str(interrupted)
    assert terminal.type("(len(_), _[0].pid)") == f"(1, {interrupted.pid})"


def test_repl_stack_of_nothing_draws_all_that_are_unreliable(
    terminal: Terminal, stacks: list[TaskStack]
) -> None:
    expected = [str(s) for s in stacks if s.verdict is Verdict.UNRELIABLE]
    note, drawn = terminal.type("%stack").split("\n", 1)
    assert note == "no task crashed this kernel; these are unreliable"
    assert drawn == "\n\n".join(expected)


def test_repl_stack_takes_the_filters_of_tasks(terminal: Terminal, stacks: list[TaskStack]) -> None:
    expected = [str(s) for s in stacks if s.comm.startswith("w-kfault-")]
    assert len(expected) > 3
    assert terminal.type("%stack --comm 'w-kfault-*'") == "\n\n".join(expected)


def test_repl_regs_and_groups(terminal: Terminal, stacks: list[TaskStack]) -> None:
    header, *rows = terminal.type("%regs --mode kernel").splitlines()
    assert header.split()[:3] == ["PID", "COMM", "PT_REGS"]
    addresses = [f"{r.address:x}" for s in stacks for r in s.regs if not r.user_mode]
    assert [address in row for address, row in zip(addresses, rows)] == [True] * len(rows)
    assert len(rows) == len(addresses)

    assert terminal.type("%groups").splitlines()[0].split()[0] == "COUNT"
    assert terminal.type("sum(group.count for group in _)") == str(len(stacks))


def test_repl_task_stack_needs_no_program_and_shows_the_drawing(
    terminal: Terminal, interrupted: TaskStack
) -> None:
    # Plain drgn: nothing is imported.
    assert terminal.type(f"task_stack({interrupted.pid})") == str(interrupted)
    assert terminal.type(f"task_stack(find_task({interrupted.pid}))") == str(interrupted)
    assert terminal.type("kernel_info().types") == "'btf'"
    assert terminal.type("from drgn_tools import *") == ""
    assert terminal.type("len(list(task_stacks())) == len(audit_kernel())") == "True"


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("%stack 4000000", "drgn: error: no task with pid 4000000 in "),
        ("%tasks --no-such-option", "drgn: error: unrecognized arguments: --no-such-option"),
        ("%tasks --state Q", "drgn: error: 'Q' is no state: "),
        ("%regs --format tabel", "drgn: error: regs has no format 'tabel': did you mean table?"),
    ],
)
def test_repl_a_mistake_is_one_line(terminal: Terminal, line: str, answer: str) -> None:
    said = terminal.type(line)
    assert said.startswith(answer)
    assert len(said.splitlines()) == 1


def test_repl_help_lists_the_options_and_does_not_leave(terminal: Terminal) -> None:
    assert terminal.type("%tasks --help").startswith("usage: %tasks [-h]")
    assert "--check" not in terminal.type("%tasks -h | cat")
    assert terminal.type("1 + 1") == "2"


def test_repl_runs_the_scripts_of_contrib(terminal: Terminal) -> None:
    answer = terminal.type(f"execscript({str(ROOT / 'contrib' / 'syscalls.py')!r})")
    assert answer.splitlines()[0].split() == ["PID", "COMM", "S", "NR", "SYSCALL", "ARGUMENTS"]


# ---- commands, by drgn's API


@pytest.fixture
def run(demo_program: drgn.Program, capsys: pytest.CaptureFixture[str]) -> Callable[..., object]:
    def run(command: str) -> tuple[object, str]:
        result = run_command(demo_program, command)
        return result, capsys.readouterr().out

    return run


@pytest.mark.parametrize(
    ("command", "kind"),
    [("tasks", TaskStack), ("stack", TaskStack), ("regs", TaskRegs), ("groups", StackGroup)],
)
def test_commands_return_their_records(
    run: Callable[..., tuple[list[object], str]], command: str, kind: type
) -> None:
    records, out = run(command)
    assert records
    assert {type(record) for record in records} == {kind}
    assert out


def test_commands_return_their_records_when_nobody_reads_on(
    demo_program: drgn.Program, stacks: list[TaskStack]
) -> None:
    # Far more than a pipe holds.
    for command in (
        "tasks --frames --format json | head -1",
        "tasks --frames --format json | true",
    ):
        assert run_command(demo_program, command) == stacks


def test_commands_take_the_options_of_the_command_line(
    run: Callable[..., tuple[list[TaskStack], str]], stacks: list[TaskStack], interrupted: TaskStack
) -> None:
    records, out = run("tasks --verdict unreliable --sort depth --format json --frames")
    document = json.loads(out)
    assert document["schema"] == "drgn-tools.tasks/1"
    assert [task["pid"] for task in document["tasks"]] == [s.pid for s in records]
    assert {s.pid for s in records} == {s.pid for s in stacks if s.verdict is Verdict.UNRELIABLE}
    records, _ = run(f"stack 0x{interrupted.task:x} {interrupted.pid}")
    assert records == [interrupted, interrupted]
    frame = waiting_function(interrupted)
    assert frame is not None and frame.symbol is not None
    records, _ = run(f"tasks --function {frame.symbol.name} --comm '*'")
    assert interrupted in records
    assert run("groups --format folded")[1].splitlines()[0].count(" ") == 1


def test_commands_raise_command_errors(demo_program: drgn.Program) -> None:
    with pytest.raises(CommandError, match=r"^no task with pid 4000000 in "):
        run_command(demo_program, "stack 4000000")


def test_commands_are_for_kernels_only() -> None:
    with pytest.raises(CommandError, match="not found"):
        run_command(drgn.Program(), "tasks")


# ---- types without debuginfo


def drgn_run(*args: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "drgn", *args],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_drgn_says_it_before_its_own_complaint_and_obeys_quiet(demo_core: str) -> None:
    code = "print(prog.type('struct task_struct').type_name(), prog.symbol('schedule').name)"
    loud = drgn_run("-c", demo_core, "-e", code)
    assert loud.stdout == "struct task_struct schedule\n"
    assert loud.stderr.splitlines()[0] == f"warning:drgn.encoded_stacks: {SAID}"
    assert loud.stderr.count("encoded_stacks") == 1
    for quiet in ("-q", "--log-level=error"):
        result = drgn_run(quiet, "-c", demo_core, "-e", code)
        assert result.stdout == loud.stdout
        assert "encoded_stacks" not in result.stderr


def test_drgn_can_be_told_not_to(demo_core: str) -> None:
    # The types, that is; our commands bring their own.
    code = (
        "from drgn.commands import run_command\n"
        "try: prog.type('struct task_struct')\n"
        # Flushed: "head" writes on its own, and stdout may be a pipe.
        "except LookupError: print('no types', flush=True)\n"
        "run_command(prog, 'tasks | head -1')"
    )
    for off in ("--no-symbols-by=btf", "--no-default-symbols"):
        result = drgn_run("-c", demo_core, off, "-e", code)
        assert re.match(r"no types\nPID +COMM ", result.stdout)
        assert SAID not in result.stderr


@pytest.fixture
def opened(demo_core: str) -> drgn.Program:
    """The vmcore as drgn opens it, plugin called, debuginfo not yet looked for."""
    prog = drgn.Program()
    prog.set_core_dump(demo_core)
    plugin.drgn_prog_set(prog)
    return prog


def look_for_debuginfo(prog: drgn.Program) -> None:
    # Not on this machine, where there might be some.
    prog.debug_info_options.directories = ()
    prog.debug_info_options.kernel_directories = ()
    with suppress(drgn.MissingDebugInfoError):
        prog.load_default_debug_info()


def test_finder_is_the_last_and_called_twice_is_there_once(opened: drgn.Program) -> None:
    plugin.drgn_prog_set(opened)
    assert opened.enabled_debug_info_finders()[-1] == plugin.BTF_FINDER
    assert opened.enabled_debug_info_finders().count(plugin.BTF_FINDER) == 1
    assert opened.enabled_type_finders() == ["dwarf"]


def test_finder_speaks_once_however_often_debuginfo_is_looked_for(
    opened: drgn.Program, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "drgn.encoded_stacks")
    for _ in range(3):
        look_for_debuginfo(opened)
    said = [r.getMessage() for r in caplog.records if r.name == "drgn.encoded_stacks"]
    assert said == [SAID]
    assert opened.type("struct task_struct").has_member("comm")


def test_finder_does_nothing_where_debuginfo_was_found(
    opened: drgn.Program, caplog: pytest.LogCaptureFixture
) -> None:
    next(opened.loaded_modules())
    # As a finder that found some leaves it.
    opened.main_module().debug_file_status = drgn.ModuleFileStatus.DONT_NEED
    look_for_debuginfo(opened)
    assert opened.enabled_type_finders() == ["dwarf"]
    assert "encoded_stacks" not in caplog.text


def test_finder_without_btf_is_one_warning(
    opened: drgn.Program, demo_program: drgn.Program, caplog: pytest.LogCaptureFixture
) -> None:
    start, stop = (demo_program.symbol(f"__{end}_BTF").address for end in ("start", "stop"))

    def zeros(address: int, count: int, offset: int, physical: bool) -> bytes:
        return bytes(count)

    opened.add_memory_segment(start, stop - start, zeros)
    look_for_debuginfo(opened)
    assert "BTF" in the_one_warning(caplog)


def test_finder_that_cannot_read_is_one_warning(
    opened: drgn.Program, demo_program: drgn.Program, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(address: int, count: int, offset: int, physical: bool) -> bytes:
        raise drgn.FaultError("not in the dump", address)

    names = demo_program.symbol("kallsyms_names").address
    opened.add_memory_segment(names & ~0xFFF, 0x1000, refuse)
    look_for_debuginfo(opened)
    the_one_warning(caplog)


def the_one_warning(caplog: pytest.LogCaptureFixture) -> str:
    said = [r for r in caplog.records if r.name == "drgn.encoded_stacks"]
    assert [r.levelno for r in said] == [logging.WARNING]
    assert said[0].exc_info is None
    assert len(said[0].getMessage().splitlines()) == 1
    return said[0].getMessage()


@pytest.mark.lab
def test_dwarf_wins_and_then_nothing_is_said() -> None:
    core, vmlinux = str(lab_file("fp-lsb.core")), str(lab_file("fp-lsb.vmlinux"))
    code = (
        "from drgn_tools import *\n"
        "print(kernel_info().types, *prog.enabled_type_finders())\n"
        "prog.load_debug_info([{}])\n"
        "print(kernel_info().types, len(audit_kernel()) > 50)"
    )
    given = drgn_run("-c", core, "-s", vmlinux, "-e", code.format(""))
    assert given.stdout == "dwarf dwarf\ndwarf True\n"
    assert "encoded_stacks" not in given.stderr
    later = drgn_run("-c", core, "-e", code.format(repr(vmlinux)))
    assert later.stdout == "btf dwarf drgn_tools\ndwarf True\n"
    assert later.stderr.count("encoded_stacks") == 1


def test_userspace_is_left_alone() -> None:
    prog = drgn.Program()
    plugin.drgn_prog_set(prog)
    assert plugin.BTF_FINDER not in prog.registered_debug_info_finders()


# ---- what it costs


def test_entry_point_is_the_plugin() -> None:
    try:
        entry_points = importlib.metadata.distribution("drgn-tools").entry_points
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("drgn-tools is not installed, only on the path")
    ours = [e for e in entry_points if e.group == "drgn.plugins"]
    assert [(e.name, e.value) for e in ours] == [("encoded_stacks", "drgn_tools.commands.plugin")]


def test_plugin_imports_nothing_heavy_and_takes_a_fraction_of_drgns_own_start() -> None:
    code = """if True:
        import json, sys, time
        start = time.perf_counter()
        import drgn.cli, drgn.commands._builtin, drgn.commands._crash
        drgns = time.perf_counter() - start
        before = set(sys.modules)
        start = time.perf_counter()
        import drgn_tools.commands.plugin
        ours = time.perf_counter() - start
        print(json.dumps([drgns, ours, sorted(set(sys.modules) - before)]))
    """
    runs = []
    for _ in range(5):
        result = subprocess.run(
            [sys.executable, "-c", code],
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            check=True,
        )
        runs.append(json.loads(result.stdout))
    # The best of each, as the machine may be busy.
    drgns, ours = min(run[0] for run in runs), min(run[1] for run in runs)
    print(f"plugin: {ours * 1e3:.1f} ms, drgn itself: {drgns * 1e3:.1f} ms")
    assert runs[0][2] == [
        "drgn_tools",
        "drgn_tools.errors",
        "drgn_tools.commands.plugin",
        "drgn_tools.records",
        "drgn_tools.slotted",
    ]
    assert ours < drgns / 3
