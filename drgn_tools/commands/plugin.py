# SPDX-License-Identifier: LGPL-2.1-or-later
"""drgn's plugin: ``%tasks``, ``%stack``, ``%regs``, ``%groups``, and types for dumps without debuginfo.

Every start of drgn imports this, whatever it is started for: the commands
themselves (:mod:`drgn_tools.commands.repl`) and the readers of BTF and kallsyms come in
when they are used.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import Any, Callable

from drgn import FaultError, MainModule, Module, Program, ProgramFlags
from drgn.commands import parse_shell_command
from drgn.commands.linux import linux_kernel_custom_command

from ..records import TaskStack

__all__ = ("drgn_prog_set",)

# Below "drgn", so that drgn's -q and --log-level are obeyed.
logger = logging.getLogger("drgn.encoded_stacks")

BTF_FINDER = "btf"
"""Name of our debuginfo finder: ``drgn --no-symbols-by btf`` turns it off."""


def drgn_prog_set(prog: Program) -> None:
    """Called by drgn when a program was opened: offer the types a kernel carries in itself.

    Only offered, as the last of the debuginfo finders: drgn asks it when it looked
    for the kernel's debuginfo everywhere else and found none.
    """
    # A plugin may be named twice (DRGN_PLUGINS), and is then called twice.
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

    before = prog.enabled_type_finders()
    try:
        use_builtin_types(prog)
    # Memory of a live kernel may be refused. What is raised here would end drgn.
    except (DrgnToolsError, FaultError, OSError) as error:
        logger.warning("%s", error)
        return
    # drgn asks again each time debuginfo is loaded.
    if prog.enabled_type_finders() != before:
        logger.warning(
            "found no debuginfo: types and symbols are the BTF and kallsyms of the kernel itself"
        )


# ---- commands


def _run(prog: Program, name: str, args: Sequence[str], **kwargs: Any) -> Any:
    from .repl import COMMANDS

    return COMMANDS[name](prog, args)


for _name, _summary, _arguments in (
    ("tasks", "list every task: state, verdict on its stack, why", ""),
    ("stack", "show stacks in full, with all saved registers", " [*pid*|*task*]..."),
    ("regs", "list every saved pt_regs", ""),
    ("groups", "fold identical stacks together, with counts", ""),
):
    # drgn need not know the options: they are the command line's, and four
    # parsers would cost more than all the rest here.
    linux_kernel_custom_command(
        name=_name,
        description=_summary,
        usage=f"**{_name}** [*options*]{_arguments}",
        long_description=f"**{_name} --help** lists the options: those of drgn-tools {_name}.",
        parse=parse_shell_command,
    )(_run)


# ---- in drgn's own command line


def _on_use(name: str) -> Callable[..., Any]:
    def function(*args: Any, **kwargs: Any) -> Any:
        import drgn_tools

        return getattr(drgn_tools, name)(*args, **kwargs)

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"from drgn_tools import {name}; help({name}) tells all of it."
    return function


# Elsewhere there is no REPL, and drgn.cli not worth importing.
if "drgn.cli" in sys.modules:
    import builtins

    from drgn.cli import display_str

    # A record shows itself as the drawing of its stack.
    display_str(TaskStack)
    # drgn gives a plugin no way to the names of its REPL. Python's own site module
    # puts what is meant for people at a prompt (exit, help) here, too; a name
    # that is there already is left alone.
    for _function in ("crashed_stack", "kernel_info", "task_stack", "task_stacks"):
        vars(builtins).setdefault(_function, _on_use(_function))
