# SPDX-License-Identifier: LGPL-2.1-or-later
"""The patches of a kernel, and the tasks that hold them back, in a few lines."""

from __future__ import annotations

import json
import textwrap
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Optional

from ..analysis.livepatch import ListedPatch
from ..analysis.patch_question import HOLDING, Answer
from ..analysis.plan import Plan
from ..analysis.record_fields import PATCH_ANSWER, as_object
from ..analysis.transition_watch import TransitionEvent
from ..kernel.livepatch import PatchObject
from ..terminal.escape import escape

__all__ = ("event_line", "holders_line", "patch_lines", "plan_lines")

_WORDS = {
    Answer.RUNNING: "on a CPU",
    Answer.UNRELIABLE: "with an unreliable stack",
    Answer.NO_RELIABLE_STACKTRACE: "to switch by themselves",
    Answer.UNKNOWN: "unknown",
}


def patch_lines(patches: Sequence[ListedPatch], width: Optional[int]) -> Iterator[str]:
    """Yield the lines of each patch and each of its objects; nothing if there are none.

    :param width: Largest number of characters in a line, if names are not longer; ``None`` for any.
    """
    for listed in patches:
        patch = listed.patch
        words = [
            listed.transition or ("enabled" if patch.enabled else "disabled"),
            *(["replaces all older patches"] if patch.replace else []),
            *(["forced"] if patch.forced else []),
        ]
        yield escape(f"{patch.name}: {', '.join(words)}")
        yield from _object_lines(patch.objects, width)


def plan_lines(plan: Optional[Plan], width: Optional[int]) -> Iterator[str]:
    """Yield what is known of a patch that is not loaded; nothing if there is none.

    :param width: As for :func:`patch_lines`.
    """
    if plan is None:
        return
    replace = ", replaces all older patches" if plan.patch.replace else ""
    yield escape(f"{plan.patch.name}: not loaded{replace}")
    yield from _object_lines(plan.patch.objects, width)


def _object_lines(objects: Sequence[PatchObject], width: Optional[int]) -> Iterator[str]:
    for obj in objects:
        names = ", ".join(
            f"{func.name}{f',{func.sympos}' if func.sympos else ''}{' (back to the original)' if func.nop else ''}"
            for func in obj.functions
        )
        note = "" if obj.patched else " (not loaded; patched once it is)"
        text = escape(f"{obj.name or 'vmlinux'}{note}: {names or 'none of the functions'}")
        if width is None:
            yield f"  {text}"
            continue
        yield from textwrap.wrap(
            text, width, initial_indent="  ", subsequent_indent="      ", break_long_words=False
        )


def holders_line(
    name: Optional[str],
    answers: Mapping[Answer, int],
    functions: Counter[str],
    plan: Optional[Plan] = None,
) -> str:
    """Return a line that says how many tasks hold a patch back, and why.

    :param name: Name of the patch in transition; ``None`` if there is none.
    :param answers: Number of tasks for each answer.
    :param functions: Number of tasks that sleep in each function.
    :param plan: What would happen if the patch were loaded; ``None`` for the patch in transition.
    """
    if name is None:
        return "no live patch is in transition"
    total = sum(answers.values())
    holding = sum(number for answer, number in answers.items() if answer in HOLDING)
    each = [f"{number} in {function}" for function, number in functions.most_common()]
    each += [
        f"{answers[answer]} {words}" for answer, words in _WORDS.items() if answers.get(answer)
    ]
    verb = "would hold" if plan is not None else "holds" if holding == 1 else "hold"
    tasks = "task" if total == 1 else "tasks"
    if not holding:
        verb = "would hold" if plan is not None else "holds"
        line = f"none of {total} {tasks} {verb} {name} back"
    else:
        line = f"{holding} of {total} {tasks} {verb} {name} back: {', '.join(each)}"
    if plan is None:
        return line
    return f"the kernel would {'refuse' if plan.refusals else 'take'} {name}; {line}"


def event_line(event: TransitionEvent, style: str) -> str:
    """Return what changed as a line.

    :param style: ``jsonl``, or ``table`` for a sentence.
    """
    if style == "jsonl":
        task = event.task and as_object(PATCH_ANSWER, event.task)
        record = {
            "time": event.time,
            "event": event.event,
            "patch": event.patch,
            "for_s": event.for_s,
            "task": task,
        }
        return json.dumps(record, ensure_ascii=True)
    at = time.strftime("%H:%M:%S", time.localtime(event.time))
    return escape(f"{at}  {_event_text(event)}")


def _event_text(event: TransitionEvent) -> str:
    took = "" if event.for_s is None else f" after {event.for_s:.0f} s"
    if event.task is None:
        if event.patch is None:
            return "no live patch is in transition"
        return f"{event.patch}: transition {event.event}{took}"
    stack = event.task.stack
    who = f"{stack.pid} {stack.comm} ({stack.state})"
    why = event.task.why or event.task.answer.value
    if event.event == "left":
        return f"{event.patch}: {who} left{took}: {why}"
    return f"{event.patch}: {who} holds it back: {why}"
