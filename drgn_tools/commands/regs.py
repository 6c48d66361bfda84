# SPDX-License-Identifier: LGPL-2.1-or-later
"""``regs``: a row for each saved ``pt_regs``."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Optional

from ..analysis.flatten import TaskRegs, saved_regs
from ..records import TaskStack
from .base import TaskCommand
from .task_options import TaskArguments, add_filters

if TYPE_CHECKING:
    from ..render.views import View
    from .session import Session

__all__ = ("COMMAND",)

_EXAMPLES = """\
examples:
  drgn-tools regs -c vmcore --mode kernel          what was interrupted in the kernel
  drgn-tools regs -c vmcore 'nginx*' --format csv > regs.csv     all registers, a column each
"""


class RegsArguments(TaskArguments):
    """The command line of ``regs``."""

    mode: Optional[str]


class Regs(TaskCommand[RegsArguments]):
    """The command ``regs``."""

    arguments = RegsArguments
    examples = _EXAMPLES

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        add_filters(parser)
        parser.add_argument(
            "--mode", choices=("kernel", "user"), help="only registers saved in this mode"
        )

    def whole_view(self, args: RegsArguments, arch: Optional[str] = None) -> View:
        from ..render.views import regs_view

        return regs_view(arch)

    def run(self, args: RegsArguments, session: Session) -> list[TaskRegs]:
        audit = session.audit(args.max_tasks)
        view = self.view(args, audit.kernel.arch)

        def rows(tasks: Iterable[TaskStack]) -> Iterator[str]:
            return session.rows(view, audit, self._regs(tasks, args))

        tasks = session.select(audit, args.selection)
        return list(self._regs(session.show(tasks, rows, args.selection), args))

    def _regs(self, tasks: Iterable[TaskStack], args: RegsArguments) -> Iterable[TaskRegs]:
        user_mode = None if args.mode is None else args.mode == "user"
        return self.in_order(saved_regs(tasks, user_mode), args)


COMMAND = Regs()
