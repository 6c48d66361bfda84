# SPDX-License-Identifier: LGPL-2.1-or-later
"""``demo``: ``tasks`` on the vmcore in the package, with explanations around it."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from typing import TYPE_CHECKING

from ..errors import UsageError
from ..records import KernelAudit
from .source_options import given_sources
from .tasks import Tasks, TasksArguments, add_check_option

if TYPE_CHECKING:
    from ..terminal.console import Console

__all__ = ("COMMAND",)


class Demo(Tasks):
    """The command ``demo``."""

    explanation = ""
    examples = ""
    selectors = ""

    def adopt_words(self, args: TasksArguments) -> None:
        """Do nothing: the core is the one in the package."""

    def is_paged(self, args: TasksArguments) -> bool:
        return args.format != "table"  # the tour ends with what to type next

    def add_command_line_options(self, parser: argparse.ArgumentParser) -> None:
        add_check_option(parser)

    def check_command_line(self, args: TasksArguments) -> None:
        given = given_sources(args)
        if given:
            raise UsageError(f"demo has its own vmcore; for yours: drgn-tools tasks {given[0]}")

    def main(self, args: TasksArguments, console: Console) -> int:
        from ..data import demo_vmcore

        args.core = str(demo_vmcore())
        if args.format != "table":
            return super().main(args, console)
        return self._guided_tour(args, console)

    def _guided_tour(self, args: TasksArguments, console: Console) -> int:
        from ..analysis.sorting import parse_order
        from ..render.guide import after_tasks, before_tasks
        from ..terminal.console import write_lines
        from .command_line_session import CommandLineSession

        session = CommandLineSession(args, console)
        audit = session.audit_all(args.max_tasks)
        write_lines(before_tasks(audit.kernel))
        args.order = args.order or parse_order("verdict")
        self.show(args, audit, session)
        code = session.finish()
        shown = KernelAudit(audit.kernel, tuple(args.selection.of(audit)))
        core = os.path.relpath(args.core or "")
        write_lines(after_tasks(shown, core, _program_name(), session.colour))
        return code


def _program_name() -> str:
    # For commands to copy: a name that works in the shell that started this.
    name = os.path.basename(sys.argv[0])
    if name == "__main__.py":
        return f"{os.path.basename(sys.executable)} -m drgn_tools"
    if not name or shutil.which(name):
        return name or "drgn-tools"
    return os.path.relpath(sys.argv[0])


COMMAND = Demo()
