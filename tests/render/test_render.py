# SPDX-License-Identifier: LGPL-2.1-or-later
"""Renderers, on records made by hand (tests/support/fabricated.py): no dump is needed."""

from __future__ import annotations

import csv
import itertools
import json
import random
import re
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from msgspec.structs import replace
from tabulate import tabulate_formats

from drgn_tools import __version__
from drgn_tools.analysis import record_fields as fields
from drgn_tools.analysis.flatten import TaskRegs, each_frame, saved_regs
from drgn_tools.analysis.grouping import group_stacks
from drgn_tools.analysis.patch_question import Answer, TaskAnswer
from drgn_tools.records import Frame, SavedRegs, TaskStack, Verdict
from drgn_tools.render import columns, structured, views
from drgn_tools.render.folded import folded_lines
from drgn_tools.render.stack import draw_stack
from drgn_tools.render.table import Column, shorten, table_lines, wrap_line
from drgn_tools.terminal.escape import escape, escape_cell

from ..support import fabricated
from ..support.fabricated import (
    AUDIT,
    BAD_ADDRESS,
    CRASHED,
    FAULTING,
    HOSTILE,
    HOSTILE_COMM,
    KERNEL,
    ORC_KERNEL,
    ORC_TASK,
    RUNNING,
    SLEEPER,
    TASK_32,
    TASKS,
    TOO_DEEP,
    UNREADABLE,
    ZOMBIE,
    symbol,
    task,
)


def records_of(view: views.View) -> list[Any]:
    if view is views.GROUPS:
        return group_stacks(TASKS)
    return list(saved_regs(TASKS)) if view.key == "regs" else list(TASKS)


REGS = views.regs_view("x86_64")
ALL_VIEWS = (views.TASKS, views.TASKS_WITH_FRAMES, views.FRAMES, views.GROUPS, REGS)


def rendered(view: views.View, style: str, width: int = 100) -> list[str]:
    return list(views.render(view, style, KERNEL, records_of(view), AUDIT.problems, width=width))


# ---- escape


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("bash", "bash"),
        ("kworker/u8:0-events", "kworker/u8:0-events"),
        ("Überwachung 日本", "Überwachung 日本"),
        ("a\nb\tc\r", "a\\x0ab\\x09c\\x0d"),
        ("\x1b[31mred\x7f", "\\x1b[31mred\\x7f"),
        ("\x9b1m", "\\x9b1m"),
        ("abc\u202egnp.exe", "abc\\u202egnp.exe"),
        ("a\u200bb\u2066c\ufeff", "a\\u200bb\\u2066c\\ufeff"),
        ("\u2028\u2029\u00a0", "\\u2028\\u2029\\xa0"),
        ("\ud800\udc80", "\\ud800\\udc80"),
        ("o\u0308", "o\\u0308"),
        ("\U000e0041", "\\U000e0041"),
        ("", ""),
    ],
)
def test_escape(text: str, escaped: str) -> None:
    assert escape(text) == escaped


def test_escape_leaves_nothing_that_does_not_print() -> None:
    for start in range(0, 0x11_0000, 0x100):
        text = "".join(map(chr, range(start, start + 0x100)))
        assert escape(text).isprintable()


def test_escape_cell_shows_the_spaces_that_padding_would_hide() -> None:
    assert escape_cell("  a b ") == "\\x20\\x20a b\\x20"
    assert escape_cell("  ") == "\\x20\\x20"
    assert escape_cell("a b") == "a b"


# ---- table


@pytest.mark.parametrize(
    ("text", "width", "short"),
    [
        ("page fault in f+0x40", 20, "page fault in f+0x40"),
        ("preempted by the timer interrupt in vfs_read+0x8f", 24, "preempted…vfs_read+0x8f"),
        (
            "page fault in rep_stos_alternative+0x40",
            26,
            "…rep_stos_alternative+0x40",
        ),
        ("page fault in rep_stos_alternative+0x40", 23, "…rep_stos_alternative"),
        ("page fault in rep_stos_alternative", 20, "rep_stos_alternative"),
        ("page fault in rep_stos_alternative", 12, "rep_stos_al…"),
        ("preempted in f+0x1 [module]", 20, "preem…f+0x1 [module]"),
        ("preempted in spinner [module]", 10, "…spinner"),
        ("100 or more entries", 12, "100 or more…"),
        ("spinner+0x12 [module]", 18, "spinner+0x12…"),
        ("stack memory is not in the dump", 20, "stack memory is not…"),
        ("rep_stos_alternative+0x40", 18, "rep_stos_alt…+0x40"),
        ("some_function_with_a_long_name", 18, "some_function_wit…"),
        ("return address 0xdead4ead00001234 is not", 30, "return address…"),
    ],
)
def test_shorten(text: str, width: int, short: str) -> None:
    assert shorten(text, width) == short


def test_shorten_never_tears_a_number_and_always_fits() -> None:
    rng = random.Random(1)
    words = ["0xffff888012345678", "page", "fault", "in", "vfs_read+0x8f", "f" * 16, "[mod]"]
    for _ in range(2000):
        text = " ".join(rng.choices(words, k=rng.randint(1, 8)))
        width = rng.randint(16, 60)
        short = shorten(text, width)
        assert len(short) <= width
        for number in re.findall(r"(?:0x[0-9a-f]{5,}|\bf{4,})", short):
            assert number in ("0xffff888012345678", "f" * 16), (text, width, short)


@pytest.mark.parametrize("view", ALL_VIEWS, ids=lambda view: f"{view.schema}-{len(view.objects)}")
def test_no_control_character_of_a_dump_gets_into_any_format(view: views.View) -> None:
    for style in ("table", "json", "jsonl", "csv", *tabulate_formats):
        for line in rendered(view, style):
            if style == "tsv":
                line = line.replace("\t", " ")
            assert line.isprintable(), (style, line)


@pytest.mark.parametrize("view", [views.TASKS, views.FRAMES, REGS], ids=["tasks", "frames", "regs"])
def test_a_table_has_a_line_for_each_row(view: views.View) -> None:
    assert len(rendered(view, "table")) == 1 + len(list(view.rows(records_of(view))))


def normal_tasks() -> list[TaskStack]:
    return [task for task in TASKS if task is not HOSTILE]


def test_tables_fit_100_columns() -> None:
    tasks = normal_tasks()
    for table, records in (
        (columns.TASKS, TASKS),
        (columns.TASKS_WITH_FRAMES, TASKS),
        (columns.GROUPS, group_stacks(TASKS)),
        (columns.FRAMES, each_frame(TASKS)),
        (REGS.columns, saved_regs(tasks)),
    ):
        lines = list(table_lines(table, list(records), width=100))
        assert max(map(len, lines)) <= 100


def test_the_table_of_tasks_fits_80_columns_if_it_must() -> None:
    lines = list(table_lines(columns.TASKS, normal_tasks(), width=80))
    assert max(map(len, lines)) <= 80
    assert sum("unreliable" in line for line in lines) == 5


LEAST_TEXT, LEAST_SENTENCE = 8, 16
"""What a column of text is shortened to, and one that wraps, if nothing else helps."""


@st.composite
def any_table(draw: st.DrawFn) -> tuple[list[Column], list[list[str]], int]:
    """Columns, rows, and the width of the narrowest table that shortens only what may be shortened."""
    columns, least = [], []
    rows = draw(st.integers(1, 4))
    cells = []
    for number in range(draw(st.integers(1, 6))):
        heading = draw(st.sampled_from(["A", "PID", "LEAVES WHEN", "HOST OR SOURCE", "X" * 20]))
        floor = draw(st.sampled_from([0, 4, 12, 30]))
        column = Column(
            heading,
            lambda row, number=number: row[number],
            floor=floor,
            wrap=bool(floor) and draw(st.booleans()),
            distinct=bool(floor) and draw(st.booleans()),
            optional=draw(st.integers(0, 3)),
        )
        text = st.text("ab +[]-.x0f", max_size=60) | st.just("page fault in f_long_name+0x4a")
        cells.append(draw(st.lists(text, min_size=rows, max_size=rows)))
        widest = max(len(heading), *(len(escape_cell(cell)) for cell in cells[-1]))
        smallest = max(len(heading), LEAST_SENTENCE if column.wrap else LEAST_TEXT)
        if not column.optional:
            least.append(min(widest, smallest) if floor else widest)
        columns.append(column)
    narrowest = sum(least) + 2 * (len(least) - 1)
    return columns, [list(row) for row in zip(*cells)], max(narrowest, 1)


@given(any_table(), st.integers(0, 120))
def test_a_table_is_wider_than_asked_only_for_what_is_never_shortened(
    table: tuple[list[Column], list[list[str]], int], more: int
) -> None:
    table_columns, rows, narrowest = table
    assume(any(not column.optional for column in table_columns))
    width = narrowest + more
    assert max(map(len, table_lines(table_columns, rows, width=width))) <= width


def widest(view: views.View, records: Sequence[Any]) -> int:
    return max(map(len, table_lines(view.columns, list(view.rows(records)), width=80)))


def test_who_holds_a_patch_back_fits_80_columns_with_the_longest_answer_and_pid() -> None:
    stack = task(4194304, comm="kworker/u512:8-events_unbound", state="S")
    why = "page fault in rep_movs_alternative_of_a_long_name"
    leaves = "it returns to user mode; a fake signal may help (within 15 s)"
    for answer in Answer:
        found = TaskAnswer(stack, answer, None, why=why, leaves_when=leaves, notes=("a note",))
        for view in (views.LIVEPATCH, views.PLANNED_LIVEPATCH):
            assert widest(view, [found]) <= 80


def headings(table: tuple[Column, ...], records: list[Any], width: int) -> list[str]:
    return next(table_lines(table, records, width=width)).split("  ")


def test_columns_that_say_least_go_before_words_are_cut_short() -> None:
    gone: list[set[str]] = []
    for width in range(160, 79, -1):
        left = {heading.strip() for heading in headings(columns.TASKS, normal_tasks(), width)}
        missing = {column.heading for column in columns.TASKS} - left
        if missing and missing not in gone:
            gone.append(missing)
    assert gone == [{"CPU"}, {"CPU", "DEPTH"}, {"CPU", "DEPTH", "REGS"}]


def test_registers_without_sp_have_a_dash_in_its_column() -> None:
    (saved, *_) = TASK_32.regs
    without = {n: v for n, v in saved.registers.items() if n not in ("sp", "ss")}
    found = TaskRegs(TASK_32, replace(saved, registers=without))
    column = next(column for column in REGS.columns if column.heading == "SP")
    assert column.cell(found) == "-"


def test_tables_of_regs_and_frames_fit_80_columns_if_they_must() -> None:
    for table, records in (
        (REGS.columns, list(saved_regs(normal_tasks()))),
        (columns.TASKS_WITH_FRAMES, normal_tasks()),
    ):
        lines = list(table_lines(table, records, width=80))
        assert max(map(len, lines)) <= 80
    assert any("entry_SYSCALL_64_after_hwframe+0x76" in line for line in lines)
    assert any("preempted in vfs_read:" in line for line in lines)


def test_a_wide_table_cuts_nothing() -> None:
    assert not any("…" in line for line in rendered(views.TASKS, "table", width=300))


def test_only_the_plain_table_is_cut() -> None:
    assert any("…" in line for line in rendered(views.TASKS, "table"))
    assert not any("…" in line for line in rendered(views.TASKS, "github"))


def test_cells_stand_below_their_headings() -> None:
    head, *rows = rendered(views.TASKS, "table")
    verdict = head.index("VERDICT")
    assert [row[verdict:].split()[0] for row in rows] == [task.verdict.value for task in TASKS]
    pid_end = head.index("PID") + len("PID")
    assert [int(row[:pid_end]) for row in rows] == [task.pid for task in TASKS]


def test_text_that_looks_like_a_number_stays_as_it_is() -> None:
    names = ["1e5", "0x10", "007", "1_000", "nan", "inf", "+1", " 1"]
    lines = list(table_lines([Column("A", str)], names))
    assert lines == ["A", *names[:-1], "\\x201"]


def test_a_table_of_nothing_is_its_headings() -> None:
    assert list(table_lines(columns.TASKS, [])) == ["  ".join(c.heading for c in columns.TASKS)]
    for style in tabulate_formats:
        # tabulate 0.9 leaves even the headings out of some.
        assert not any("None" in line for line in table_lines(columns.TASKS, [], style))


def test_a_column_may_be_shortened_to_no_less_than_its_heading() -> None:
    for view in ALL_VIEWS:
        for column in view.columns:
            assert not column.floor or column.floor >= len(column.heading)


def test_addresses_in_tables_are_whole() -> None:
    text = "\n".join(rendered(REGS, "table"))
    for found in saved_regs(TASKS):
        assert f"{found.regs.address:x}" in text
        assert f"{found.regs['sp']:x}" in text


def test_markup_cannot_be_broken_out_of() -> None:
    line = next(line for line in rendered(views.TASKS, "github") if "4194303" in line)
    head = rendered(views.TASKS, "github")[0]
    assert line.count("|") == head.count("|")
    assert not any("<b>" in line for line in rendered(views.TASKS, "unsafehtml"))


def test_registers_are_a_letter_each_until_there_are_many() -> None:
    def letters(*user_modes: bool) -> str:
        regs = tuple(
            fabricated.user_regs(i) if user else fabricated.kernel_regs(i, 0, "f", None)
            for i, user in enumerate(user_modes)
        )
        column = next(column for column in columns.TASKS if column.heading == "REGS")
        return str(column.cell(task(1, regs=regs)))

    assert letters() == "-"
    assert letters(False, True) == "ku"
    assert letters(False, False, False, True) == "kkku"
    assert letters(*[False] * 12, True) == "12k1u"


def test_function_is_the_innermost_one_outside_the_scheduler() -> None:
    column = next(column for column in columns.TASKS if column.heading == "FUNCTION")
    assert column.cell(SLEEPER) == "do_wait"
    assert column.cell(UNREADABLE) == "__schedule"
    assert column.cell(TOO_DEEP) == "dig [lab_module]"
    assert column.cell(BAD_ADDRESS) == "(no symbol)"
    assert column.cell(ZOMBIE) == "-"
    assert column.cell(RUNNING) == "-"


@pytest.mark.parametrize("entry", ["sysvec_apic_timer_interrupt", "common_interrupt", "do_IRQ"])
def test_function_of_a_preempted_task_is_what_was_interrupted(entry: str) -> None:
    def cell(*below: Frame) -> str:
        column = next(column for column in columns.TASKS if column.heading == "FUNCTION")
        off_its_cpu = (Frame(1, symbol("__schedule+0x1")), Frame(2, symbol("irqentry_exit+0x1")))
        frames = (
            *off_its_cpu,
            Frame(3, symbol(f"{entry}+0x1")),
            Frame(4, symbol(f"asm_{entry}+0x1")),
            *below,
        )
        return str(column.cell(task(1, frames=frames)))

    user = Frame(0x401000, regs=0x2000, user_mode=True)
    assert (
        cell(Frame(5, symbol("spin+0x1", "lab"), regs=0x1000), Frame(6, symbol("f+0x1")), user)
        == "spin [lab]"
    )
    assert cell(user) == "(user)"
    assert cell() == entry
    preempted = task(1, frames=(Frame(2, symbol(f"{entry}+0x1")), user))
    assert fields.TASK["function"](preempted) is None
    assert fields.TASK["function"](fabricated.PREEMPTED) == "vfs_read+0x8f"


def test_what_all_tasks_of_a_kernel_share_is_not_said_on_each_line() -> None:
    column = next(column for column in columns.TASKS if column.heading == "WHY")
    assert column.cell(ORC_TASK) == "orc_unclear"


# ---- json, jsonl

FRAME_KEYS = ["ip", "symbol", "module", "stack", "regs", "user_mode", "exact", "guessed"]
REGS_KEYS = ["address", "entry", "user_mode", "registers", "symbol", "module", "caller"]
KERNEL_KEYS = [
    "source", "release", "build_id", "arch", "unwinder", "encoding", "reliable_stacktrace",
    "types", "cpus", "notes", "last_words", "host", "uptime_s", "boot_id",
]  # fmt: skip
IDENTITY_KEYS = [
    "task", "pid", "tgid", "comm", "state", "cpu", "on_cpu", "kthread", "verdict", "reason",
    "why", "flags",
]  # fmt: skip
SUMMARY_KEYS = ["reason_frame", "depth", "kernel_regs", "user_regs", "function"]
ORIGIN_KEYS = ["full_name", "process", "ppid", "start_time_ns", "switches"]


def is_address(value: object) -> bool:
    return (
        isinstance(value, str) and re.fullmatch(r"0x(0|[1-9a-f][0-9a-f]{0,15})", value) is not None
    )


def check_task(found: dict[str, Any], frames: bool, source: Sequence[str]) -> None:
    stack = ["frames", "regs"] if frames else []
    on_cpu = ["cpu_registers", "cpu_caller"] if frames else []
    assert list(found) == [*IDENTITY_KEYS, *stack, *SUMMARY_KEYS, *on_cpu, *ORIGIN_KEYS]
    assert all(map(is_address, (found.get("cpu_registers") or {}).values()))
    assert is_address(found["task"])
    assert found["verdict"] in ("reliable", "unreliable", "unknown")
    assert (found["reason"] is None) == (found["verdict"] == "reliable")
    for frame in found.get("frames", ()):
        assert list(frame) == [*FRAME_KEYS, *source]
        assert is_address(frame["ip"])
        assert frame["regs"] is None or is_address(frame["regs"])
        assert type(frame["user_mode"]) is bool
    for regs in found.get("regs", ()):
        assert list(regs) == REGS_KEYS
        assert list(regs["registers"])[-6:] == ["orig_ax", "ip", "cs", "flags", "sp", "ss"]
        assert all(map(is_address, regs["registers"].values()))


@pytest.mark.parametrize(
    ("view", "frames"),
    [(views.TASKS, False), (views.TASKS_WITH_FRAMES, True), (views.FRAMES, True)],
)
def test_json_of_tasks_keeps_its_contract(view: views.View, frames: bool) -> None:
    document = json.loads("\n".join(rendered(view, "json")))
    assert list(document) == ["schema", "tool", "kernel", "tasks", "problems"]
    assert document["schema"] == view.schema
    assert document["tool"] == __version__
    assert list(document["kernel"]) == KERNEL_KEYS
    assert document["problems"] == list(AUDIT.problems)
    assert len(document["tasks"]) == len(TASKS)
    for found in document["tasks"]:
        check_task(found, frames, ["source"] if view is views.FRAMES else [])


def test_json_says_what_the_records_say() -> None:
    document = json.loads("\n".join(rendered(views.TASKS_WITH_FRAMES, "json")))
    found = next(found for found in document["tasks"] if found["pid"] == 51)
    assert found["reason"] == "kernel_mode_regs"
    assert found["why"] == "page fault in rep_stos_alternative+0x40"
    assert found["reason_frame"] == 4
    assert found["depth"] == len(FAULTING.frames) - 1
    assert found["frames"][4]["regs"] == found["regs"][0]["address"] == "0xff2000000045fd38"
    assert found["frames"][-1]["user_mode"] is True
    assert {name: int(value, 16) for name, value in found["regs"][0]["registers"].items()} == (
        FAULTING.regs[0].registers
    )
    assert found["function"] == "handle_userfault+0x417"
    assert [regs["caller"] for regs in found["regs"]] == ["lab_read+0x50 [lab_module]", None]
    assert (found["cpu_registers"], found["cpu_caller"]) == (None, None)
    crashed = next(found for found in document["tasks"] if found["pid"] == CRASHED.pid)
    assert crashed["cpu_registers"]["ip"] == crashed["frames"][0]["ip"]
    assert crashed["cpu_caller"] == "vpanic+0x11"
    hostile = next(found for found in document["tasks"] if found["pid"] == HOSTILE.pid)
    assert hostile["comm"] == HOSTILE_COMM


def test_json_of_a_kernel_says_null_for_what_there_is_not() -> None:
    document = json.loads("\n".join(views.render(views.TASKS, "json", ORC_KERNEL, [])))
    assert document["kernel"]["encoding"] is None
    assert document["kernel"]["build_id"] is None
    assert document["kernel"]["notes"] == list(ORC_KERNEL.notes)
    assert document["tasks"] == []


def test_json_of_regs_keeps_its_contract() -> None:
    document = json.loads("\n".join(rendered(REGS, "json")))
    assert document["schema"] == "drgn-tools.regs/1"
    assert len(document["regs"]) == sum(len(task.regs) for task in TASKS)
    for found in document["regs"]:
        assert list(found) == [
            "task", "pid", "tgid", "comm", "address", "entry", "user_mode", "ip", "symbol",
            "module", "sp", "orig_ax", "registers",
        ]  # fmt: skip
        for name in ("ip", "sp", "orig_ax"):
            assert found[name] == found["registers"][name]


def test_json_of_groups_keeps_its_contract() -> None:
    document = json.loads("\n".join(rendered(views.GROUPS, "json")))
    assert document["schema"] == "drgn-tools.groups/1"
    assert sum(group["count"] for group in document["groups"]) == len(TASKS)
    for group in document["groups"]:
        assert list(group) == ["count", "verdict", "reason", "why", "comms", "pids", "frames"]
        assert group["count"] == len(group["pids"]) == sum(c["count"] for c in group["comms"])
        assert not any(frame["user_mode"] for frame in group["frames"])


@pytest.mark.parametrize("view", ALL_VIEWS, ids=lambda view: f"{view.schema}-{len(view.objects)}")
def test_jsonl_has_the_objects_of_json(view: views.View) -> None:
    document = json.loads("\n".join(rendered(view, "json")))
    assert [json.loads(line) for line in rendered(view, "jsonl")] == document[view.key]


def test_json_is_ascii() -> None:
    assert all(line.isascii() for line in rendered(views.TASKS_WITH_FRAMES, "json"))


@pytest.mark.parametrize("style", ["json", "jsonl", "csv"])
def test_structured_formats_are_streamed(style: str) -> None:
    endless = itertools.repeat(SLEEPER)
    lines = views.render(views.TASKS, style, KERNEL, endless)
    assert len(list(itertools.islice(lines, 1000))) == 1000


# ---- csv


@pytest.mark.parametrize("view", ALL_VIEWS, ids=lambda view: f"{view.schema}-{len(view.objects)}")
def test_csv_has_a_line_for_each_row_and_no_ragged_one(view: views.View) -> None:
    header, *rows = csv.reader(rendered(view, "csv"))
    assert header == list(view.csv)
    assert len(rows) == len(list(view.rows(records_of(view))))
    assert {len(row) for row in rows} == {len(header)}


def test_csv_cells() -> None:
    rows = {row["pid"]: row for row in csv.DictReader(rendered(views.TASKS_WITH_FRAMES, "csv"))}
    assert rows["57"]["on_cpu"] == "true"
    assert rows["57"]["frames"] == ""
    assert rows["1"]["reason"] == ""
    assert rows["1"]["task"] == hex(SLEEPER.task)
    assert rows["51"]["frames"].split(";")[4] == "rep_stos_alternative+0x40"
    assert rows[str(HOSTILE.pid)]["comm"] == escape(HOSTILE_COMM)
    # The ; inside the symbol is not taken for one between symbols.
    assert len(rows[str(HOSTILE.pid)]["frames"].split(";")) == 1


def test_csv_of_regs_has_a_column_for_each_register() -> None:
    row = next(iter(csv.DictReader(rendered(REGS, "csv"))))
    for name, value in SLEEPER.regs[0].registers.items():
        assert int(row[name], 16) == value


def test_csv_of_regs_of_a_32_bit_kernel() -> None:
    lines = views.render(views.regs_view("i386"), "csv", KERNEL, saved_regs([TASK_32]))
    row = next(iter(csv.DictReader(lines)))
    for name, value in TASK_32.regs[0].registers.items():
        assert int(row[name], 16) == value


@pytest.mark.parametrize("start", "=+-@＝＋－＠")
def test_csv_text_is_never_a_formula_of_a_spreadsheet(start: str) -> None:
    # OWASP, "CSV Injection". Who runs a program chooses its comm.
    evil = f"{start}cmd|' /C calc'!A0"
    fields = {"text": lambda r: r, "list": lambda r: ["a", r], "number": lambda r: -1}
    _, line = structured.csv_lines(fields, [evil])
    (text, items, number) = next(csv.reader([line]))
    assert (text, items, number) == (f"'{evil}", f"a;'{evil}", "-1")
    assert list(structured.csv_lines({evil: fields["number"]}, [])) == [f"'{evil}"]


@pytest.mark.parametrize("start", "\t\r\n")
def test_csv_text_does_not_begin_with_what_a_spreadsheet_skips(start: str) -> None:
    _, line = structured.csv_lines({"text": lambda r: r}, [f"{start}=1+1"])
    assert line.startswith("\\")


def test_csv_of_nothing_is_its_header() -> None:
    assert list(views.render(REGS, "csv", KERNEL, [])) == [",".join(REGS.csv)]


# ---- folded


def test_folded_counts_every_task() -> None:
    lines = list(folded_lines(TASKS))
    assert sum(int(line.rsplit(" ", 1)[1]) for line in lines) == len(TASKS)
    assert lines[0] == "ret_from_fork_asm;kthread;worker_thread;schedule;__schedule 9"


def test_folded_is_outermost_first_without_offsets_and_without_user_mode() -> None:
    assert list(folded_lines([FAULTING], by_comm=True)) == [
        "reader;entry_SYSCALL_64_after_hwframe;do_syscall_64;vfs_read;rep_stos_alternative;"
        "asm_exc_page_fault;handle_userfault;schedule;__schedule 1"
    ]


def test_folded_is_safe_for_its_readers() -> None:
    for by_comm in (False, True):
        for line in folded_lines(TASKS, by_comm):
            assert re.fullmatch(r"[^ ]+ [1-9][0-9]*", line)
            assert line.isprintable()
    (line,) = folded_lines([HOSTILE], by_comm=True)
    assert line.count(";") == 1


def test_folded_of_a_task_without_frames() -> None:
    assert list(folded_lines([RUNNING, ZOMBIE])) == ["[running] 1", "[no_stack] 1"]


# ---- stack

OOPS_NAMES = {
    "RAX": "ax", "RBX": "bx", "RCX": "cx", "RDX": "dx", "RSI": "si", "RDI": "di", "RBP": "bp",
    "R08": "r8", "R09": "r9", "R10": "r10", "R11": "r11", "R12": "r12", "R13": "r13",
    "R14": "r14", "R15": "r15", "ORIG_RAX": "orig_ax",
}  # fmt: skip
OOPS_NAMES_32 = {
    "EAX": "ax", "EBX": "bx", "ECX": "cx", "EDX": "dx", "ESI": "si", "EDI": "di", "EBP": "bp",
    "ESP": "sp", "ORIG_EAX": "orig_ax",
}  # fmt: skip


def test_every_register_is_drawn_by_its_name_in_full() -> None:
    text = draw_stack(FAULTING)
    for regs in FAULTING.regs:
        box = text[text.index(f"pt_regs at {regs.address:016x}") :].split("└")[0]
        for title, name in OOPS_NAMES.items():
            assert f" {title}: {regs[name]:016x}" in box
        assert f"RIP: {regs['cs']:04x}:{regs['ip']:016x}" in box
        assert f"RSP: {regs['ss']:04x}:{regs['sp']:016x}" in box
        assert f"EFLAGS: {regs['flags']:08x}" in box
        assert len(re.findall(r"[A-Z0-9_]+: ", box)) == 19  # 21, cs and ss in the pairs


def test_every_register_of_a_32_bit_kernel_is_drawn() -> None:
    text = draw_stack(TASK_32)
    regs = TASK_32.regs[0]
    for title, name in OOPS_NAMES_32.items():
        assert f" {title}: {regs[name]:08x}" in text
    assert f"EIP: {regs['cs']:04x}:{regs['ip']:08x}" in text
    for name in ("ds", "es", "fs", "ss"):
        assert f" {name.upper()}: {regs[name]:04x}" in text


def test_registers_lie_between_the_frames_they_part() -> None:
    lines = draw_stack(FAULTING).split("\n")
    at = [i for i, line in enumerate(lines) if line.lstrip().startswith("┌")]
    assert "rep_stos_alternative+0x40" in lines[at[0] - 1]
    end = at[0] + lines[at[0] :].index("     └")
    assert lines[end + 1] == "      ?  ffffffffc04f3050  lab_read+0x50 [lab_module]"
    assert "vfs_read+0x8f" in lines[end + 2]
    assert "page fault from kernel mode, pt_regs at ff2000000045fd38" in lines[at[0]]
    assert "syscall from user mode" in lines[at[1]]


def test_the_frame_on_which_the_verdict_fell_is_marked() -> None:
    marked = [line for line in draw_stack(FAULTING).split("\n") if "=>" in line]
    assert marked == [" =>  #4  ffffffff81f25d40  rep_stos_alternative+0x40"]
    assert "VERDICT: unreliable at #4: page fault" in draw_stack(FAULTING)
    assert "=>" not in draw_stack(SLEEPER)


def test_a_drawing_is_safe_and_fits() -> None:
    for found in TASKS:
        for line in draw_stack(found).split("\n"):
            assert line.isprintable()
            assert len(line) <= 100 or found in (HOSTILE, fabricated.IN_MODULE)


def test_a_drawing_names_every_frame_with_its_whole_address() -> None:
    for found in TASKS:
        drawn = re.findall(r"#(\d+)  ([0-9a-f]{16})  ", draw_stack(found))
        assert [(int(n), int(ip, 16)) for n, ip in drawn] == [
            (n, frame.ip) for n, frame in enumerate(found.frames)
        ]


def test_a_change_of_stack_is_drawn_as_in_an_oops() -> None:
    frames = (Frame(1, symbol("a+0x1"), stack="irq"), Frame(2, symbol("b+0x1")))
    lines = [line.strip() for line in draw_stack(task(1, frames=frames)).split("\n")[2:]]
    assert [line.split()[-1] for line in lines] == [
        "<IRQ>",
        "a+0x1",
        "</IRQ>",
        "<TASK>",
        "b+0x1",
        "</TASK>",
    ]


def test_registers_nobody_knows_are_drawn_too() -> None:
    regs = fabricated.user_regs(0x1000)
    regs = type(regs)(0x1000, None, True, {**regs.registers, "fred_ss": 0x77})
    text = draw_stack(task(1, frames=(fabricated.regs_frame(regs),), regs=(regs,)))
    assert "RFRED_SS: 0000000000000077" in text


def test_a_record_prints_as_its_drawing() -> None:
    assert str(FAULTING) == draw_stack(FAULTING)


def test_the_three_verdicts_stay_apart() -> None:
    for verdict in Verdict:
        assert f"VERDICT: {verdict.value}" in draw_stack(task(1, verdict=verdict))


def test_a_column_may_wrap_and_what_was_left_out_is_said() -> None:
    table = [
        Column("NAME", str, floor=8),
        Column("LESS", lambda _: "x" * 12, optional=1),
        Column("LEAST", lambda _: "x" * 12, optional=1),
        Column("WHY", lambda _: "the reason stands at the end", floor=10, wrap=True),
    ]
    first, *lines = table_lines(table, ["a"], width=29, complete="csv has them")
    assert first.split() == ["NAME", "WHY"]
    assert lines[-3:] == ["", "left out, too wide: less,", "    least (csv has them)"]
    assert max(map(len, lines)) <= 29
    assert " ".join(" ".join(lines[:-3]).split()) == "a the reason stands at the end"
    wide = list(table_lines(table, ["a"], width=100, complete="csv has them"))
    assert len(wide) == 2
    assert len(list(table_lines(table, ["a"], width=29))) == len(lines) - 2


def test_lines_that_differ_do_not_look_equal() -> None:
    pairs = [
        ("asm_sysvec_call_function+0x1a", "asm_sysvec_apic_timer_interrupt+0x1a"),
        ("short_enough", "asm_sysvec_apic_timer_interrupt+0x1a"),
    ]
    table = [Column("FUNCTION", lambda pair: pair, floor=8, distinct=True)]
    _, *lines = table_lines(table, pairs, width=16)
    assert max(map(len, lines)) <= 16
    # The first two would both be "asm_sysvec_+0x1a"; the others may be shortened.
    assert "".join(lines[:-2]) == "".join(pairs[0])
    assert lines[-2:] == [shorten(name, 16) for name in pairs[1]]
    assert shorten(pairs[0][0], 16) == shorten(pairs[0][1], 16)


def test_a_name_stays_with_its_pid() -> None:
    assert wrap_line("held by some one (15)", 14, "  ") == ["held by some", "  one (15)"]
    assert wrap_line("held by init (user mode)", 14) == ["held by init", "(user mode)"]


def test_registers_that_were_not_saved_yet_are_left_out() -> None:
    saved = fabricated.kernel_regs(0xFF20_0000_0000_3D38, 0xFA11, "asm_exc_nmi+0x3", "NMI")
    only = {name: saved.registers[name] for name in ("ip", "cs", "flags", "sp", "ss")}
    partial = replace(saved, registers=only)
    task = replace(FAULTING, regs=(partial,), frames=(fabricated.regs_frame(partial),))
    drawn = draw_stack(task)
    assert "RIP: 0010:000000000000fa11" in drawn
    assert "EFLAGS" in drawn and "RAX" not in drawn and "R15" not in drawn
    column = next(column for column in REGS.columns if column.heading == "ORIG_AX")
    assert column.cell(TaskRegs(task, partial)) == "-"


@pytest.mark.parametrize(
    ("arch", "headings"),
    [
        ("x86_64", "PID COMM PT_REGS ENTRY MODE IP SP ORIG_AX"),
        ("i386", "PID COMM PT_REGS ENTRY MODE IP SP ORIG_AX"),
        ("aarch64", "PID COMM PT_REGS ENTRY MODE PC SP SYSCALLNO"),
    ],
)
def test_registers_have_the_names_of_the_machine(arch: str, headings: str) -> None:
    view = views.regs_view(arch)
    assert [column.heading for column in view.columns] == headings.split()
    # What --columns takes is the same for all machines, and is checked before a dump is opened.
    assert views.shown_names(view, "table") == views.shown_names(views.regs_view(None), "table")


@pytest.mark.parametrize(
    ("pstate", "sp"),
    [
        (0x8000_0000, "500000"),
        (0x10, "ffb0"),  # a 32-bit program: x13 (compat_sp in asm/ptrace.h)
        (0x5, "500000"),
    ],
)
def test_registers_of_arm64_in_a_table_and_as_fields(pstate: int, sp: str) -> None:
    values = {"x13": 0xFFB0, "sp": 0x50_0000, "pc": 0x40_1000, "pstate": pstate, "syscallno": 63}
    found = TaskRegs(
        task(1, arch="aarch64"), SavedRegs(0x1000, "syscall", not pstate & 0xF, values)
    )
    view = views.regs_view("aarch64")
    cells = [column.cell(found) for column in view.columns if column.name in ("sp", "orig_ax")]
    assert cells == [sp, "63"]
    for each in (view.objects, view.csv):
        assert [each[name](found) for name in ("ip", "sp")] == ["0x401000", f"0x{sp}"]
    assert view.objects["registers"](found)["sp"] == "0x500000"


def test_guesses_are_marked() -> None:
    frames = tuple(replace(f, guessed=i > 1) for i, f in enumerate(SLEEPER.frames))
    task = replace(SLEEPER, frames=frames)
    lines = draw_stack(task).splitlines()
    said = [i for i, line in enumerate(lines) if "guesses" in line]
    assert len(said) == 1 and "#2 " in lines[said[0] + 1]
    column = next(column for column in columns.TASKS_WITH_FRAMES if column.heading == "WHY: STACK")
    cell = column.cell(task)
    marked = ["(guessed)" in line for line in cell if line]
    assert marked == [frame.guessed for frame in frames]
