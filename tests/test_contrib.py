# SPDX-License-Identifier: LGPL-2.1-or-later
"""The scripts of contrib/, both ways, on the bundled vmcore: what they say is compared with the engine."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Callable

import drgn
import pytest
from drgn.helpers.linux.mm import access_remote_vm, vma_find, vma_name

from drgn_tools import TaskStack, Verdict, task_stacks
from drgn_tools.commands.script import table

ROOT = Path(__file__).parent.parent
SCRIPTS = sorted(path.name for path in (ROOT / "contrib").glob("*.py"))

Rows = list[dict[str, str]]
RunScript = Callable[..., subprocess.CompletedProcess]


def rows_of(output: str) -> Rows:
    """A table as it was printed; the last column may hold spaces."""
    header, *lines = (re.split(r"\s{2,}", line.strip()) for line in output.splitlines())
    assert all(len(line) == len(header) for line in lines), output
    return [dict(zip(header, line)) for line in lines]


@pytest.fixture(params=("drgn", "python"))
def run_script(request: pytest.FixtureRequest, demo_core: str) -> RunScript:
    """Run a script on the vmcore in one of the two ways."""

    def run(name: str, *args: str, core: str = demo_core) -> subprocess.CompletedProcess:
        script = str(ROOT / "contrib" / name)
        way = (
            ["-m", "drgn", "-q", "-c", core, script, *args]
            if request.param == "drgn"
            else [script, "-c", core, *args]
        )
        return in_this_environment(way)

    return run


def in_this_environment(args: Sequence[str]) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *args],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture
def ask(run_script: RunScript) -> Callable[..., Rows]:
    """The rows that a script prints, which it does without a word of complaint."""

    def run(name: str, *args: str) -> Rows:
        result = run_script(name, *args)
        assert (result.returncode, result.stderr) == (0, "")
        return rows_of(result.stdout)

    return run


@pytest.fixture(scope="module")
def stacks(demo_program: drgn.Program) -> list[TaskStack]:
    return list(task_stacks(demo_program))


def task_struct(prog: drgn.Program, stack: TaskStack) -> drgn.Object:
    return drgn.Object(prog, "struct task_struct *", stack.task)


# ---- what they say


def test_interrupted_functions_counts_every_kernel_mode_pt_regs(
    ask: Callable[..., Rows], stacks: list[TaskStack]
) -> None:
    expected = Counter(
        (regs.symbol.name, regs.entry)
        for stack in stacks
        if stack.verdict is Verdict.UNRELIABLE
        for regs in stack.regs
        if not regs.user_mode and regs.symbol
    )
    rows = ask("interrupted_functions.py")
    assert expected
    assert {(r["FUNCTION"], r["INTERRUPTED BY"]): int(r["TASKS"]) for r in rows} == expected
    assert [int(r["TASKS"]) for r in rows] == sorted(expected.values(), reverse=True)


def test_tasks_at_user_ip_has_every_user_mode_pt_regs_and_its_mapping(
    ask: Callable[..., Rows], stacks: list[TaskStack], demo_program: drgn.Program
) -> None:
    saved = {s.pid: regs["ip"] for s in stacks for regs in s.regs if regs.user_mode}
    rows = ask("tasks_at_user_ip.py")
    shown = {int(r["PID"]): r for r in rows}
    assert saved
    assert {pid: int(r["USER IP"], 16) for pid, r in shown.items()} == saved
    for stack in stacks:
        if stack.pid in shown:
            mm = task_struct(demo_program, stack).mm
            vma = vma_find(mm, saved[stack.pid]) if mm else None
            row = shown[stack.pid]
            assert row["MAPPING"] == (vma_name(vma).decode() if vma else "-")
            if row["OFFSET"] != "-":
                start = vma.vm_start.value_() - vma.vm_pgoff.value_() * 4096
                assert int(row["OFFSET"], 16) == saved[stack.pid] - start


def test_tasks_at_user_ip_takes_a_mapping_or_a_range(ask: Callable[..., Rows]) -> None:
    everywhere = ask("tasks_at_user_ip.py")
    file = next(r["MAPPING"] for r in everywhere if r["MAPPING"].startswith("/"))
    in_file = [r for r in everywhere if file in r["MAPPING"]]
    assert ask("tasks_at_user_ip.py", file) == in_file
    ip = int(in_file[0]["USER IP"], 16)
    in_range = ask("tasks_at_user_ip.py", f"{ip:x}-{ip + 1:#x}")
    assert in_range == [r for r in everywhere if int(r["USER IP"], 16) == ip]


@pytest.mark.parametrize(
    ("name", "args", "says"),
    [
        ("tasks_at_user_ip.py", ["zzz"], "no mapping matches 'zzz', of those where a task is"),
        ("tasks_at_user_ip.py", ["5-0x10"], "no task is in this range of addresses"),
        ("syscalls.py", ["reboot"], "no task is in the system call reboot"),
    ],
)
def test_what_matches_nothing_is_said(
    run_script: RunScript, name: str, args: list[str], says: str
) -> None:
    result = run_script(name, *args)
    assert (result.returncode, result.stderr) == (0, f"warning: {says}\n")
    assert rows_of(result.stdout) == []


@pytest.mark.parametrize(
    ("name", "args", "says"),
    [
        ("tasks_at_user_ip.py", ["10-5"], "'10-5' is an empty range: give 5-10"),
        (
            "tasks_at_user_ip.py",
            ["10-10"],
            "'10-10' is an empty range: its end does not belong to it",
        ),
        (
            "syscalls.py",
            ["read", "nosuchcall"],
            "there is no system call 'nosuchcall': names are those of the kernel's functions, "
            "such as newfstat for fstat",
        ),
        ("deepest_stacks.py", ["-n", "x"], "-n takes a number above 0, not 'x'"),
        ("deepest_stacks.py", ["-n", "0"], "-n takes a number above 0, not '0'"),
        (
            "fault_sleepers.py",
            ["more"],
            "unrecognized arguments: more (see fault_sleepers.py --help)",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_line(
    run_script: RunScript, name: str, args: list[str], says: str
) -> None:
    result = run_script(name, *args)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == f"{name}: error: {says}\n"


def test_fault_sleepers_finds_instruction_and_missing_page(
    ask: Callable[..., Rows], stacks: list[TaskStack], demo_program: drgn.Program
) -> None:
    sleeping = [
        (stack, regs)
        for stack in stacks
        for regs in stack.regs
        if regs.entry == "page fault" and stack.state in "SD"
    ]
    rows = ask("fault_sleepers.py")
    assert sleeping
    assert [int(r["PID"]) for r in rows] == [stack.pid for stack, _ in sleeping]
    for (stack, regs), row in zip(sleeping, rows):
        mm = task_struct(demo_program, stack).mm
        assert (
            row["INSTRUCTION AT"] == str(regs.symbol) or f"{regs['ip']:x} " in row["INSTRUCTION AT"]
        )
        code = bytes.fromhex(row["CODE"])
        if regs.user_mode:
            assert code == access_remote_vm(mm, regs["ip"], len(code))
        else:
            assert code == demo_program.read(regs["ip"], len(code))
        assert len(code) == 15
        address = int(row["ADDRESS"], 16)
        with pytest.raises(drgn.FaultError):
            access_remote_vm(mm, address, 1)


def test_syscalls_are_those_on_the_stacks(
    ask: Callable[..., Rows], stacks: list[TaskStack]
) -> None:
    rows = ask("syscalls.py")
    expected = {
        s.pid: regs["orig_ax"]
        for s in stacks
        for regs in s.regs
        if regs.user_mode and regs.entry == "syscall"
    }
    assert {int(r["PID"]): int(r["NR"]) for r in rows} == expected
    # The table of the kernel and the function on the stack tell the same name.
    for row in rows:
        stack = next(s for s in stacks if s.pid == int(row["PID"]))
        entered = [f.symbol.name for f in stack.frames if f.symbol]
        entered = [name for name in entered if name.startswith("__x64_sys_")]
        assert entered in ([], [s for s in entered if s.endswith(f"sys_{row['SYSCALL']}")])
    reads = [r for r in rows if r["SYSCALL"] == "read"]
    assert reads
    assert ask("syscalls.py", "read") == reads


def test_deepest_stacks_are_in_order_and_measured_to_the_saved_sp(
    ask: Callable[..., Rows], stacks: list[TaskStack], demo_program: drgn.Program
) -> None:
    rows = ask("deepest_stacks.py", "-n", "5")
    used = [int(r["BYTES"]) for r in rows]
    assert len(rows) == 5
    assert used == sorted(used, reverse=True)
    for row in rows:
        stack = next(s for s in stacks if s.pid == int(row["PID"]) and s.comm == row["COMM"])
        sp = task_struct(demo_program, stack).thread.sp.value_()
        user_regs = [regs.address for regs in stack.regs if regs.user_mode]
        if user_regs:  # which lie at the very end of the stack
            size = demo_program.type("struct pt_regs").size
            assert user_regs[0] + size - 16 <= sp + int(row["BYTES"]) <= user_regs[0] + size + 16
        assert int(row["FRAMES"]) == len(stack.frames)


# ---- how they behave


def test_every_script_is_in_the_readme_and_in_these_tests() -> None:
    readme = (ROOT / "contrib" / "README.md").read_text()
    tests = Path(__file__).read_text()
    assert len(SCRIPTS) >= 4
    for name in SCRIPTS:
        assert f"| `{name}" in readme
        assert re.search(rf'(?:ask|run_script)\("{re.escape(name)}"', tests)


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_shows_the_docstring(run_script: RunScript, name: str) -> None:
    result = run_script(name, "--help")
    assert result.returncode == 0
    assert result.stderr == ""
    assert f"$ drgn -c vmcore contrib/{name}" in (result.stdout)


def test_without_a_kernel_it_says_which_to_give() -> None:
    result = in_this_environment([str(ROOT / "contrib" / "syscalls.py")])
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == (
        "syscalls.py: error: which kernel? give a core (-c VMCORE), -k for the running kernel, "
        "or --qemu SOCKET\n"
    )


def test_two_kernels_are_a_usage_error() -> None:
    result = in_this_environment([str(ROOT / "contrib" / "syscalls.py"), "-c", "a", "--qemu", "b"])
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == (
        "syscalls.py: error: -c and --qemu exclude each other: give one kernel\n"
    )


def test_a_core_that_is_none_is_one_line_and_exit_code_3() -> None:
    result = in_this_environment([str(ROOT / "contrib" / "syscalls.py"), "-c", __file__])
    assert (result.returncode, result.stdout) == (3, "")
    assert len(result.stderr.splitlines()) == 1
    assert __file__ in result.stderr


def test_not_a_kernel_is_one_line_and_exit_code_3() -> None:
    # What drgn -p PID leaves behind, where this process may not be traced too.
    script = ROOT / "contrib" / "syscalls.py"
    result = in_this_environment(
        [
            "-c",
            "import drgn, runpy; drgn.set_default_prog(drgn.Program())\n"
            f"import sys; sys.argv = ['syscalls.py']; runpy.run_path({str(script)!r}, run_name='__main__')",
        ]
    )
    assert (result.returncode, result.stdout) == (3, "")
    assert len(result.stderr.splitlines()) == 1


def test_nobody_reads_the_output_is_no_traceback(demo_core: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer) as stdout:
        result = subprocess.run(
            [sys.executable, str(ROOT / "contrib" / "syscalls.py"), "-c", demo_core],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
        )
    assert (result.returncode, result.stderr) == (141, "")


def test_table_escapes_and_aligns() -> None:
    lines = list(table(("N", "TEXT"), [(5, "\x1b[31m"), (10, None), (None, b"/tmp/\xff\n")]))
    assert lines == [" N  TEXT", " 5  \\x1b[31m", "10  -", " -  /tmp/\\xff\\x0a"]
