# SPDX-License-Identifier: LGPL-2.1-or-later
"""The JSON documents of all commands as JSON schemas (draft 2020-12).

A field here is one of :mod:`drgn_tools.analysis.record_fields`: a test validates what the commands
print, and fails if one of the two has a field that the other lacks. The schemas allow additional
fields, because a later version may add some.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, Optional, Union

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from drgn_tools.analysis.task_diff import ChangeKind
from drgn_tools.records import Verdict

__all__ = ("DOCUMENTS", "file_name", "schemas")

Hex = Annotated[str, Meta(pattern="^0x[0-9a-f]+$")]
"""An address or a register."""
Count = Annotated[int, Meta(ge=0)]
Registers = dict[str, Hex]

# ---- one kernel


class Kernel(Struct):
    """The kernel, and how its stacks are read."""

    source: Annotated[str, Meta(description="path of the core, live or qemu")]
    release: Annotated[str, Meta(description="uname -r of the kernel")]
    build_id: Annotated[Optional[str], Meta(description="GNU build ID in hex")]
    arch: Annotated[str, Meta(description="x86_64, i386 or aarch64")]
    unwinder: Annotated[Optional[str], Meta(description="frame_pointer, orc, guess or arm64")]
    encoding: Annotated[
        Optional[str], Meta(description="form of the encoded frame pointers: lsb or msb")
    ]
    reliable_stacktrace: Annotated[bool, Meta(description="built with reliable stack traces")]
    types: Annotated[str, Meta(description="btf or dwarf")]
    cpus: Annotated[
        Count, Meta(description="CPUs that are online, or were when the machine panicked")
    ]
    notes: Annotated[list[str], Meta(description="what to know before trusting a verdict")]
    last_words: Annotated[
        list[str], Meta(description="headlines of the last oops and of panic(), from the log")
    ]
    host: Annotated[Optional[str], Meta(description="name of the machine, uname -n")]
    uptime_s: Annotated[
        Optional[Count], Meta(description="seconds since the boot, those of suspend included")
    ]
    boot_id: Annotated[
        Optional[str], Meta(description="UUID of the boot; null if nothing has asked for it")
    ]


class Frame(Struct):
    """A frame of a stack."""

    ip: Annotated[Hex, Meta(description="return address; for a pt_regs its exact ip")]
    symbol: Annotated[Optional[str], Meta(description="name+0xoffset, as the kernel prints it")]
    module: Annotated[Optional[str], Meta(description="module; null for the kernel image")]
    stack: Annotated[str, Meta(description="stack that it is on: task, irq, nmi, #df ...")]
    regs: Annotated[Optional[Hex], Meta(description="address of the pt_regs, if it is one")]
    user_mode: Annotated[bool, Meta(description="a pt_regs saved in user mode")]
    exact: Annotated[bool, Meta(description="ip is the next instruction, not a return address")]
    guessed: Annotated[bool, Meta(description="found after an error of the unwinder")]


class SourceLine(Struct):
    """A line of source code, of a function or of one that was inlined into it."""

    function: Annotated[Optional[str], Meta(description="name; null if DWARF does not tell")]
    file: Annotated[str, Meta(description="path of the file, as DWARF has it")]
    line: Annotated[Count, Meta(description="number of the line; 0 if DWARF does not tell")]
    column: Annotated[Count, Meta(description="number of the column; 0 if DWARF does not tell")]


class FrameWithSource(Frame):
    """A frame of a stack, with its place in the source."""

    source: Annotated[
        list[SourceLine],
        Meta(description="inlined functions first, then the function; empty without DWARF"),
    ]


class SavedRegs(Struct):
    """A struct pt_regs on a stack."""

    address: Annotated[Hex, Meta(description="address of the struct pt_regs")]
    entry: Annotated[Optional[str], Meta(description="what entered the kernel: syscall ...")]
    user_mode: Annotated[bool, Meta(description="saved in user mode")]
    registers: Annotated[Registers, Meta(description="values by the kernel's names")]
    symbol: Annotated[Optional[str], Meta(description="symbol of ip")]
    module: Annotated[Optional[str], Meta(description="module of ip")]
    caller: Annotated[
        Optional[str],
        Meta(description="caller of the interrupted function that frame pointers do not show"),
    ]


class TaskId(Struct):
    """Which task it is."""

    task: Annotated[Hex, Meta(description="address of the task_struct")]
    pid: Annotated[Count, Meta(description="thread ID; 0 for idle tasks")]
    tgid: Annotated[Count, Meta(description="process ID")]
    comm: Annotated[str, Meta(description="name of the task, as it is in the dump")]


class Summary(TaskId):
    """A task, and whether its stack can be trusted."""

    state: Annotated[str, Meta(description="one letter, as in ps(1)", min_length=1, max_length=1)]
    cpu: Annotated[int, Meta(description="CPU that it last ran on")]
    on_cpu: Annotated[bool, Meta(description="it is running there")]
    kthread: Annotated[bool, Meta(description="kernel thread")]
    verdict: Annotated[Verdict, Meta(description="can the stack be trusted?")]
    reason: Annotated[
        Optional[str], Meta(description="why not, one of a fixed list; null if reliable")
    ]
    why: Annotated[Optional[str], Meta(description="the reason as a sentence; null if reliable")]
    flags: Annotated[list[str], Meta(description="marks of unusual tasks")]
    reason_frame: Annotated[
        Optional[Count], Meta(description="index in frames where the verdict fell")
    ]
    depth: Annotated[Count, Meta(description="frames in the kernel")]
    kernel_regs: Annotated[Count, Meta(description="pt_regs saved in kernel mode")]
    user_regs: Annotated[Count, Meta(description="pt_regs saved in user mode")]
    function: Annotated[
        Optional[str], Meta(description="innermost function outside the scheduler, with offset")
    ]
    full_name: Annotated[
        Optional[str], Meta(description="name of a kernel thread that is longer than comm holds")
    ]
    process: Annotated[Optional[str], Meta(description="name of the leader of the thread group")]
    ppid: Annotated[Optional[Count], Meta(description="process ID of the parent")]
    start_time_ns: Annotated[
        Optional[Count], Meta(description="when it was forked, in ns since the boot")
    ]
    switches: Annotated[
        Optional[Count], Meta(description="how often it has left its CPU: nvcsw + nivcsw")
    ]


class Task(Summary):
    """A task; the fields of its stack are there with --frames."""

    frames: Annotated[
        Union[list[Frame], UnsetType], Meta(description="the stack, innermost first")
    ] = UNSET
    regs: Annotated[
        Union[list[SavedRegs], UnsetType], Meta(description="every pt_regs on it, in that order")
    ] = UNSET
    cpu_registers: Annotated[
        Union[Registers, UnsetType, None], Meta(description="registers of its CPU, if it is on one")
    ] = UNSET
    cpu_caller: Annotated[
        Union[str, UnsetType, None], Meta(description="like caller of regs, for its CPU")
    ] = UNSET


class Stack(Summary):
    """A task with its stack."""

    frames: Annotated[list[FrameWithSource], Meta(description="the stack, innermost first")]
    regs: Annotated[list[SavedRegs], Meta(description="every pt_regs on it, in that order")]
    cpu_registers: Annotated[
        Optional[Registers], Meta(description="registers of its CPU, if it is on one")
    ]
    cpu_caller: Annotated[Optional[str], Meta(description="like caller of regs, for its CPU")]


class RegsOfTask(TaskId):
    """A struct pt_regs, and the task whose stack it is on."""

    address: Annotated[Hex, Meta(description="address of the struct pt_regs")]
    entry: Annotated[Optional[str], Meta(description="what entered the kernel: syscall ...")]
    user_mode: Annotated[bool, Meta(description="saved in user mode")]
    ip: Optional[Hex]
    symbol: Annotated[Optional[str], Meta(description="symbol of ip")]
    module: Annotated[Optional[str], Meta(description="module of ip")]
    sp: Optional[Hex]
    orig_ax: Annotated[Optional[Hex], Meta(description="number of the system call, or negative")]
    registers: Annotated[Registers, Meta(description="values by the kernel's names")]


class RawWord(TaskId):
    """A word of a stack, and what it may be."""

    stack: Annotated[str, Meta(description="stack that it is on: task, irq, nmi, #df ...")]
    address: Annotated[Hex, Meta(description="virtual address of the word")]
    value: Annotated[Optional[Hex], Meta(description="the word; null if it is not in the dump")]
    kind: Annotated[
        Optional[Literal["frame", "regs", "encoded", "stack", "text", "symbol", "task", "slab"]],
        Meta(description="frame and regs: what the unwinder found; else what it may be"),
    ]
    frame: Annotated[
        Optional[Count], Meta(description="number of the frame, for frame, regs and encoded")
    ]
    label: Annotated[
        Optional[str],
        Meta(description="what it is in words: name+0xoffset, pt_regs.ip, pid 97 ..."),
    ]


class Comm(Struct):
    """A name of tasks in a group."""

    comm: str
    count: Annotated[int, Meta(description="tasks of this name", ge=1)]


class Group(Struct):
    """Tasks with identical stacks."""

    count: Annotated[int, Meta(description="number of tasks", ge=1)]
    verdict: Annotated[Verdict, Meta(description="the same for all of them")]
    reason: Annotated[Optional[str], Meta(description="the same for all of them")]
    why: Annotated[Optional[str], Meta(description="that of the first task")]
    comms: Annotated[list[Comm], Meta(description="their names, most frequent first")]
    pids: Annotated[list[Count], Meta(description="their thread IDs")]
    frames: Annotated[list[Frame], Meta(description="stack in the kernel of the first of pids")]


# ---- two snapshots


class Seen(Struct):
    """A task in one of the snapshots."""

    task: Annotated[Hex, Meta(description="address of the task_struct")]
    pid: Annotated[Count, Meta(description="thread ID; 0 for idle tasks")]
    comm: Annotated[str, Meta(description="name of the task, as it is in the dump")]
    state: Annotated[str, Meta(description="one letter, as in ps(1)", min_length=1, max_length=1)]
    cpu: Annotated[int, Meta(description="CPU that it last ran on")]
    on_cpu: Annotated[bool, Meta(description="it is running there")]
    verdict: Annotated[Verdict, Meta(description="can the stack be trusted?")]
    reason: Annotated[
        Optional[str], Meta(description="why not, one of a fixed list; null if reliable")
    ]
    why: Annotated[Optional[str], Meta(description="the reason as a sentence; null if reliable")]
    function: Annotated[
        Optional[str], Meta(description="innermost function outside the scheduler, without offset")
    ]
    switches: Annotated[
        Optional[Count], Meta(description="how often it has left its CPU: nvcsw + nivcsw")
    ]


class Change(Struct):
    """What became of a task between two snapshots."""

    change: Annotated[ChangeKind, Meta(description="still, changed, unclear, came or went")]
    what: Annotated[
        list[Literal["stack", "state", "verdict", "wait"]], Meta(description="what differs")
    ]
    ran: Annotated[Optional[bool], Meta(description="it ran in between; null if that is not known")]
    pid: Annotated[Count, Meta(description="thread ID; 0 for idle tasks")]
    tgid: Annotated[Count, Meta(description="process ID")]
    comm: Annotated[str, Meta(description="name of the task in the last look that has it")]
    full_name: Annotated[
        Optional[str], Meta(description="name of a kernel thread that is longer than comm holds")
    ]
    kthread: Annotated[bool, Meta(description="kernel thread")]
    before: Annotated[Optional[Seen], Meta(description="in the first look; null if it came")]
    after: Annotated[Optional[Seen], Meta(description="in the second look; null if it went")]
    parts_before: Annotated[
        Optional[str],
        Meta(description="outermost frame of the first stack that the second does not have there"),
    ]
    parts_after: Annotated[Optional[str], Meta(description="the same of the second stack")]


# ---- live patches


class PatchedFunction(Struct):
    """A function that a live patch replaces."""

    name: str
    sympos: Annotated[Count, Meta(description="which of the symbols of this name; 0: the only one")]
    old_addr: Optional[Hex]
    old_size: Optional[Count]
    new_addr: Optional[Hex]
    new_size: Optional[Count]
    nop: Annotated[bool, Meta(description="it takes the replacement of an older patch back")]


class PatchedObject(Struct):
    """The kernel image or a module, as a live patch sees it."""

    name: Annotated[str, Meta(description="vmlinux, or the name of a module")]
    patched: Annotated[bool, Meta(description="it is loaded, and patched")]
    functions: list[PatchedFunction]


class Patch(Struct):
    """A live patch that is loaded."""

    name: str
    enabled: bool
    transition: Annotated[
        Optional[str], Meta(description="patching, unpatching, unclear, or null if in none")
    ]
    replace: Annotated[bool, Meta(description="it replaces all older patches")]
    objects: list[PatchedObject]
    forced: Annotated[bool, Meta(description="a transition of it was forced")]


class PlannedPatch(Struct):
    """A live patch that is not loaded."""

    name: str
    replace: Annotated[bool, Meta(description="it replaces all older patches")]
    refusals: Annotated[list[str], Meta(description="why the kernel would refuse it")]
    objects: list[PatchedObject]


class PatchAnswer(TaskId):
    """A task that a live patch waits for."""

    state: Annotated[str, Meta(description="one letter, as in ps(1)", min_length=1, max_length=1)]
    patch_state: Annotated[
        Optional[int],
        Meta(description="-1 without a transition, 0 old code, 1 new; null without live patching"),
    ]
    answer: Annotated[str, Meta(description="what the kernel finds: done, free, running ...")]
    function: Annotated[Optional[str], Meta(description="function that it sleeps on")]
    object: Annotated[Optional[str], Meta(description="vmlinux, or the module of function")]
    frame: Annotated[Optional[Count], Meta(description="number of the frame that returns into it")]
    reason: Annotated[Optional[str], Meta(description="reason of the verdict on its stack")]
    why: Optional[str]
    leaves_when: Annotated[Optional[str], Meta(description="what would let it switch")]
    notes: list[str]


# ---- machines that hang


class Waiting(Struct):
    """A lock, or what else is waited for, and who holds it."""

    waits_for: Annotated[
        Optional[str], Meta(description="mutex, rwsem, folio ...; null: not known")
    ]
    address: Annotated[Optional[Hex], Meta(description="address of its struct")]
    name: Annotated[Optional[str], Meta(description="its name: mmap_lock of COMM, a variable ...")]
    detail: Annotated[Optional[str], Meta(description="more about it in words: bit 3, disk sda")]
    readers: Annotated[Optional[Count], Meta(description="readers that hold it; null if none may")]
    free: Annotated[
        Optional[bool], Meta(description="nobody holds it: the first waiter has been woken")
    ]
    holder: Annotated[Optional[Hex], Meta(description="address of the task_struct that holds it")]
    holder_pid: Annotated[Optional[Count], Meta(description="its thread ID; null if it is no task")]
    holder_exited: Annotated[Optional[bool], Meta(description="the holder has exited")]
    last_holder_pid: Annotated[
        Optional[Count], Meta(description="who took it last, and may have given it back")
    ]


class HungTask(Waiting):
    """A task that sleeps, what it waits for, and since when."""

    task: Annotated[Hex, Meta(description="address of the task_struct")]
    pid: Annotated[Count, Meta(description="thread ID; 0 for idle tasks")]
    tgid: Annotated[Count, Meta(description="process ID")]
    comm: Annotated[str, Meta(description="name of the task, as it is in the dump")]
    state: Annotated[str, Meta(description="one letter, as in ps(1)", min_length=1, max_length=1)]
    function: Annotated[
        Optional[str], Meta(description="innermost function outside the scheduler, with offset")
    ]
    mode: Annotated[Optional[str], Meta(description="read or write")]
    waiter: Annotated[Optional[Hex], Meta(description="address of the waiter on its stack")]
    not_run_s: Annotated[Optional[float], Meta(description="seconds since it ran")]
    stamp: Annotated[Optional[str], Meta(description="by which stamp: exec_start, last_arrival")]
    seen_hung_s: Annotated[
        Optional[float], Meta(description="seconds that khungtaskd has seen it without a switch")
    ]
    hangup: Annotated[Optional[Count], Meta(description="index in hangups; null: it hangs in none")]
    depth: Annotated[Optional[Count], Meta(description="how far behind the root of its hangup")]


class Hangup(Waiting):
    """Tasks that hang on the same root."""

    kind: Annotated[
        str, Meta(description="what the others wait for in the end: deadlock, exited, task, wait")
    ]
    count: Annotated[Count, Meta(description="number of tasks")]
    deadlock_pids: Annotated[
        list[Count], Meta(description="the tasks of a deadlock, each on the next")
    ]
    pids: Annotated[list[Count], Meta(description="all tasks")]


class CpuQueue(Struct):
    """The run queue of a CPU."""

    cpu: Count
    pid: Annotated[
        Optional[Count], Meta(description="thread ID of the task on it; null: not known")
    ]
    comm: Optional[str]
    idle: Annotated[bool, Meta(description="its idle task is on it")]
    waiting_pids: Annotated[list[Count], Meta(description="tasks that wait for the CPU")]


# ---- documents


class OfKernel(Struct):
    tool: Annotated[str, Meta(description="version of drgn-tools")]
    kernel: Kernel
    problems: Annotated[list[str], Meta(description="what could not be read, a sentence each")]


class Tasks(OfKernel):
    """drgn-tools tasks --format json, also of demo."""

    schema: Literal["drgn-tools.tasks/1"]
    tasks: list[Task]


class Stacks(OfKernel):
    """drgn-tools stack --format json"""

    schema: Literal["drgn-tools.stack/1"]
    tasks: list[Stack]


class RawStacks(OfKernel):
    """drgn-tools stack --raw --format json"""

    schema: Literal["drgn-tools.raw/1"]
    words: list[RawWord]


class Regs(OfKernel):
    """drgn-tools regs --format json"""

    schema: Literal["drgn-tools.regs/1"]
    regs: list[RegsOfTask]


class Groups(OfKernel):
    """drgn-tools groups --format json"""

    schema: Literal["drgn-tools.groups/1"]
    groups: list[Group]


class Diff(OfKernel):
    """drgn-tools diff --format json; kernel is that of the second snapshot."""

    schema: Literal["drgn-tools.diff/1"]
    before: Annotated[Kernel, Meta(description="kernel of the first look")]
    same_boot: Annotated[bool, Meta(description="both snapshots are of one boot of one machine")]
    tasks: list[Change]


class Hung(OfKernel):
    """drgn-tools hung --format json"""

    schema: Literal["drgn-tools.hung/1"]
    hangups: Annotated[list[Hangup], Meta(description="deadlocks first, then who holds up most")]
    cpus: list[CpuQueue]
    tasks: list[HungTask]


class Livepatch(OfKernel):
    """drgn-tools livepatch --format json"""

    schema: Literal["drgn-tools.livepatch/1"]
    patches: Annotated[list[Patch], Meta(description="the patches that are loaded")]
    planned: Annotated[Optional[PlannedPatch], Meta(description="the patch of --function or --ko")]
    tasks: list[PatchAnswer]


# ---- many kernels


class ReportSection(Struct):
    """A section of the report."""

    total: Annotated[Count, Meta(description="number of all rows")]
    rows: Annotated[
        list[dict[str, Any]], Meta(description="the first rows: values by the name of the column")
    ]


class FleetReport(Struct):
    """drgn-tools fleet report DATASET --format json"""

    schema: Literal["drgn-tools.fleet-report/1"]
    tool: Annotated[str, Meta(description="version of drgn-tools")]
    dataset: Annotated[str, Meta(description="path of the dataset")]
    sections: Annotated[
        dict[str, ReportSection], Meta(description="by the name that --section takes")
    ]


class FleetSql(Struct):
    """drgn-tools fleet report DATASET --sql QUERY --format json"""

    schema: Literal["drgn-tools.fleet-sql/1"]
    tool: Annotated[str, Meta(description="version of drgn-tools")]
    dataset: Annotated[str, Meta(description="path of the dataset")]
    rows: Annotated[list[dict[str, Any]], Meta(description="values by the name of the column")]


class Dataset(Struct):
    """The file dataset.json of a dataset, whose other files are Parquet."""

    schema: Literal["drgn-tools.fleet/1"]


DOCUMENTS: dict[str, type[Struct]] = {
    "drgn-tools.tasks/1": Tasks,
    "drgn-tools.stack/1": Stacks,
    "drgn-tools.raw/1": RawStacks,
    "drgn-tools.regs/1": Regs,
    "drgn-tools.groups/1": Groups,
    "drgn-tools.diff/1": Diff,
    "drgn-tools.hung/1": Hung,
    "drgn-tools.livepatch/1": Livepatch,
    "drgn-tools.fleet-report/1": FleetReport,
    "drgn-tools.fleet-sql/1": FleetSql,
    "drgn-tools.fleet/1": Dataset,
}
"""By the name that a document has as its ``schema``."""


def file_name(schema: str) -> str:
    """Return the name of the file of a schema: ``tasks-1.json``."""
    return schema.partition(".")[2].replace("/", "-") + ".json"


def schemas() -> dict[str, str]:
    """Return the schemas by the names of their files."""
    return {file_name(name): _schema(name, document) for name, document in DOCUMENTS.items()}


def _schema(name: str, document: type[Struct]) -> str:
    (described,), definitions = msgspec.json.schema_components(
        [document], ref_template="#/$defs/{name}"
    )
    root = definitions.pop(described["$ref"].rpartition("/")[2])
    whole = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **root,
        "title": name,
        **({"$defs": dict(sorted(definitions.items()))} if definitions else {}),
    }
    return json.dumps(_null_last(whole), indent=1) + "\n"


def _null_last(schema: Any) -> Any:
    # Versions of msgspec differ in the order of "or null".
    if isinstance(schema, list):
        return [_null_last(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: _null_last(value) for name, value in schema.items()}
    if "anyOf" in found:
        found["anyOf"].sort(key=lambda choice: choice.get("type") == "null")
    return found
