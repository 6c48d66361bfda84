# SPDX-License-Identifier: LGPL-2.1-or-later
"""``groups``: tasks grouped by identical stacks."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Optional

from ..analysis.grouping import StackGroup, group_stacks
from ..errors import UsageError
from ..records import TaskStack
from ..terminal.parser import ROW_FORMATS
from .base import TaskCommand
from .task_options import TaskArguments, add_filters

if TYPE_CHECKING:
    from ..render.views import View
    from .session import Session

__all__ = ("COMMAND",)

_EXPLANATION = """\
Stacks are identical if they have the same functions and offsets in all kernel frames, and the same
verdict and reason. "folded" leaves out the offsets; the outermost function is first.
"""

_EXAMPLES = """\
examples:
  drgn-tools groups -c vmcore --state D
  drgn-tools groups -c vmcore 'kworker/*' --sort verdict,-count
  drgn-tools groups -c vmcore --format folded --by-comm | flamegraph.pl > stacks.svg
"""


class GroupsArguments(TaskArguments):
    """The command line of ``groups``."""

    by_comm: bool


class Groups(TaskCommand[GroupsArguments]):
    """The command ``groups``."""

    arguments = GroupsArguments
    explanation = _EXPLANATION
    examples = _EXAMPLES
    formats = (*ROW_FORMATS, "folded")

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        add_filters(parser)
        parser.add_argument(
            "--by-comm", action="store_true", help="folded: put the name of the task first"
        )

    def check(self, args: GroupsArguments) -> None:
        super().check(args)
        if args.by_comm and args.format != "folded":
            raise UsageError("--by-comm works only with --format folded")

    def whole_view(self, args: GroupsArguments, arch: Optional[str] = None) -> View:
        from ..render.views import GROUPS

        return GROUPS

    def run(self, args: GroupsArguments, session: Session) -> list[StackGroup]:
        from ..render.folded import folded_lines

        audit = session.audit(args.max_tasks)

        def lines(tasks: Iterable[TaskStack]) -> Iterator[str]:
            if args.format == "folded":
                return folded_lines(tasks, args.by_comm)
            return session.rows(self.view(args), audit, self._groups(tasks, args))

        tasks = session.select(audit, args.selection)
        return self._groups(session.show(tasks, lines, args.selection), args)

    def _groups(self, tasks: Iterable[TaskStack], args: GroupsArguments) -> list[StackGroup]:
        return list(self.in_order(group_stacks(tasks), args))


COMMAND = Groups()
