# SPDX-License-Identifier: LGPL-2.1-or-later
"""The patches of a kernel, and who holds them back, in a few lines."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Optional

from ..analysis.livepatch import HOLDING, Answer, ListedPatch
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


def patch_lines(patches: Sequence[ListedPatch]) -> Iterator[str]:
    """Yield a line for each patch and each of its objects; nothing if there are none."""
    for listed in patches:
        patch = listed.patch
        words = [
            listed.transition or ("enabled" if patch.enabled else "disabled"),
            *(["replaces all older patches"] if patch.replace else []),
            *(["forced"] if patch.forced else []),
        ]
        yield escape(f"{patch.name}: {', '.join(words)}")
        for obj in patch.objects:
            yield escape(f"  {_object_text(obj)}")


def plan_lines(plan: Optional[Plan]) -> Iterator[str]:
    """Yield what would happen if a patch were loaded now; nothing if there is none."""
    if plan is None:
        return
    replace = ", replaces all older patches" if plan.patch.replace else ""
    yield escape(f"{plan.patch.name}: not loaded{replace}")
    for obj in plan.patch.objects:
        yield escape(f"  {_object_text(obj)}")
    for refusal in plan.refusals:
        yield escape(f"  would be refused: {refusal}")


def _object_text(obj: PatchObject) -> str:
    names = ", ".join(
        f"{func.name}{f',{func.sympos}' if func.sympos else ''}{' (back to the original)' if func.nop else ''}"
        for func in obj.functions
    )
    note = "" if obj.patched else " (not loaded: patched when it is)"
    return f"{obj.name or 'vmlinux'}{note}: {names or 'no functions'}"


def holders_line(
    name: Optional[str],
    answers: Mapping[Answer, int],
    functions: Counter[str],
    is_planned: bool = False,
) -> str:
    """Return a line that says how many tasks hold a patch back, and with what.

    :param name: Name of the patch in transition; ``None`` if there is none.
    :param answers: Number of tasks for each answer.
    :param functions: Number of tasks that sleep in each function.
    :param is_planned: The patch is not loaded.
    """
    total = sum(answers.values())
    if name is None:
        return "no live patch is in transition"
    holding = sum(number for answer, number in answers.items() if answer in HOLDING)
    verb = "would hold" if is_planned else "hold"
    if not holding:
        verb = "would hold" if is_planned else "holds"
        return f"none of {total} tasks {verb} {name} back"
    each = [f"{number} in {function}" for function, number in functions.most_common()]
    each += [
        f"{answers[answer]} {words}" for answer, words in _WORDS.items() if answers.get(answer)
    ]
    if holding == 1 and not is_planned:
        verb = "holds"
    return f"{holding} of {total} tasks {verb} {name} back: {', '.join(each)}"


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
