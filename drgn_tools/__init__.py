# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is this task's stack, and can I trust it?

For a running Linux kernel or a vmcore: every task's stack as the kernel's own
unwinder walks it, the ``pt_regs`` saved on it, and the verdict of the kernel's
reliable stack trace, with the reason.

    >>> from drgn_tools import open_program, task_stacks
    >>> prog = open_program(core="vmcore")
    >>> for s in task_stacks(prog):
    ...     print(s.pid, s.comm, s.verdict.value, s.why)

The folders are layers. Imports point down this list, never up:

    commands    the command line, the % commands of drgn's REPL, one-shot scripts
    fleet       many kernels: run, dataset, report
    render      records to text
    terminal    what every command line is made of: parser, console, escaping
    analysis    the API: audit, resolve a task, select, group, compare
    engine      one kernel: from a task to its record
    verdict     a finished walk -> reliable, unreliable or unknown, and why
    unwind      the unwinders behind one interface (base.Walker); return addresses
    program     open a core, the live kernel or a guest as a drgn Program
    arch        what a machine is (base.Arch): registers, entry code, stacks, tables
    kernel      tasks and their lists, kernel text and its names
    debuginfo   types and symbols out of the dump: BTF, kallsyms, modules
    records, drawn, errors, memory, bounded_cache, cache_key
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .drawn import draw_html_with, draw_with
from .errors import DrgnToolsError, InputError, TaskNotFoundError, TypesError, UsageError

if TYPE_CHECKING:
    from .analysis.audit import audit_kernel, crashed_stack, kernel_info, task_stack, task_stacks
    from .analysis.data_frame import to_pandas
    from .analysis.hung import hung_tasks
    from .analysis.inquiry import livepatch_answers
    from .analysis.raw_stack import raw_stack
    from .analysis.snapshot import saved_snapshot
    from .analysis.source_lines import with_source_lines
    from .analysis.task_diff import diff_tasks
    from .program.declare import declare
    from .program.open import open_program
    from .records import (
        Frame,
        KernelAudit,
        KernelInfo,
        Reason,
        SavedRegs,
        SourceLine,
        Symbol,
        TaskStack,
        Verdict,
    )

__version__ = "0.1.0"

__all__ = (
    "DrgnToolsError",
    "Frame",
    "InputError",
    "KernelAudit",
    "KernelInfo",
    "Reason",
    "SavedRegs",
    "SourceLine",
    "Symbol",
    "TaskNotFoundError",
    "TaskStack",
    "TypesError",
    "UsageError",
    "Verdict",
    "audit_kernel",
    "crashed_stack",
    "declare",
    "diff_tasks",
    "hung_tasks",
    "kernel_info",
    "livepatch_answers",
    "open_program",
    "raw_stack",
    "saved_snapshot",
    "task_stack",
    "task_stacks",
    "to_pandas",
    "with_source_lines",
)

_RECORDS = (
    "Frame KernelAudit KernelInfo Reason SavedRegs SourceLine Symbol TaskStack Verdict".split()
)
_ON_USE = {
    **dict.fromkeys(_RECORDS, "records"),
    "audit_kernel": "analysis.audit",
    "crashed_stack": "analysis.audit",
    "kernel_info": "analysis.audit",
    "diff_tasks": "analysis.task_diff",
    "hung_tasks": "analysis.hung",
    "livepatch_answers": "analysis.inquiry",
    "raw_stack": "analysis.raw_stack",
    "saved_snapshot": "analysis.snapshot",
    "task_stack": "analysis.audit",
    "task_stacks": "analysis.audit",
    "to_pandas": "analysis.data_frame",
    "with_source_lines": "analysis.source_lines",
    "declare": "program.declare",
    "open_program": "program.open",
}


def __getattr__(name: str) -> Any:
    # Every start of drgn imports our plugin, and "drgn-tools --help" does not
    # need drgn: the engine is imported when it is first used.
    if name in _ON_USE:
        from importlib import import_module

        return getattr(import_module(f".{_ON_USE[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


def _draw(record: object) -> str:
    from .render.text import text_of

    return text_of(record)


def _draw_html(record: object) -> str:
    from .render.notebook import html_of

    return html_of(record)


draw_with(_draw)
draw_html_with(_draw_html)
