# SPDX-License-Identifier: LGPL-2.1-or-later
"""drgn's plugin: ``%tasks``, ``%stack``, ``%regs``, ``%groups``, and types for dumps without debuginfo.

Every start of drgn imports this module. The commands themselves and the readers of BTF and kallsyms
are imported when they are used.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import Any, Callable

from drgn import FaultError, MainModule, Module, Program, ProgramFlags
from drgn.commands import parse_shell_command
from drgn.commands.linux import linux_kernel_custom_command

from ..cache_key import PREFIX
from ..drawn import Drawn
from .registry import REPL_OPERANDS, SUMMARIES

__all__ = ("drgn_prog_set",)

# A child of the logger "drgn", so that drgn's -q and --log-level work.
logger = logging.getLogger("drgn.encoded_stacks")

BTF_FINDER = PREFIX
"""Name of our debuginfo finder. ``drgn --no-symbols-by encoded_stacks`` turns it off. The name "btf" is
left to a finder of drgn's own."""


def drgn_prog_set(prog: Program) -> None:
    """Register a debuginfo finder for the types that a kernel contains itself.

    drgn calls this after it has opened a program. The finder is the last one: drgn calls it when all
    others have found no debuginfo for the kernel.
    """
    # drgn calls a plugin twice if it is named twice (DRGN_PLUGINS).
    known = prog.registered_debug_info_finders()
    if prog.flags & ProgramFlags.IS_LINUX_KERNEL and BTF_FINDER not in known:
        prog.register_debug_info_finder(BTF_FINDER, _find_builtin_types, enable_index=-1)


def _find_builtin_types(modules: Sequence[Module]) -> None:
    for module in modules:
        if isinstance(module, MainModule) and module.wants_debug_file():
            _use_builtin_types(module.prog)


def _use_builtin_types(prog: Program) -> None:
    from ..errors import DrgnToolsError
    from ..program.builtin_types import use_builtin_types

    before = prog.enabled_object_finders()
    try:
        use_builtin_types(prog)
    # Reading a live kernel may be refused. An exception here would end drgn.
    except (DrgnToolsError, FaultError, OSError) as error:
        logger.warning("%s", error)
        return
    # drgn calls the finder again each time debuginfo is loaded.
    if prog.enabled_object_finders() != before:
        logger.warning(
            "found no debuginfo: types and symbols come from the kernel's own BTF and kallsyms"
        )


# ---- commands


def _run(prog: Program, name: str, args: Sequence[str], **kwargs: Any) -> Any:
    from .repl import run_in_repl

    return run_in_repl(prog, name, args)


for _name, _operands in REPL_OPERANDS.items():
    # drgn does not get the parsers of the options: making four would take longer than all else here.
    linux_kernel_custom_command(
        name=_name,
        description=SUMMARIES[_name],
        usage=f"**{_name}** [*options*]{_operands}",
        long_description=f"**{_name} --help** lists the options: those of drgn-tools {_name}.",
        parse=parse_shell_command,
    )(_run)


# ---- in drgn's own command line


def _on_use(name: str) -> Callable[..., Any]:
    def function(*args: Any, **kwargs: Any) -> Any:
        import drgn_tools

        return getattr(drgn_tools, name)(*args, **kwargs)

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"from drgn_tools import {name}; help({name}) shows how to call it."
    return function


# Without drgn.cli there is no REPL. It is not imported here, because that takes long.
if "drgn.cli" in sys.modules:
    import builtins

    from drgn.cli import display_str

    # The REPL shows a record as the drawing of its stack.
    display_str(Drawn)
    # A plugin cannot reach the global names of the REPL. Python's own site module also puts
    # functions for people at a prompt into builtins (exit, help). Existing names stay.
    for _function in (
        "crashed_stack",
        "declare",
        "hung_tasks",
        "kernel_info",
        "livepatch_answers",
        "task_stack",
        "task_stacks",
    ):
        vars(builtins).setdefault(_function, _on_use(_function))
