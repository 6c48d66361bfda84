# SPDX-License-Identifier: LGPL-2.1-or-later
"""Datasets of a fleet for tests: small, real files, made without a run.

:data:`FLEET` is a fabricated fleet of the records in tests/support/fabricated.py: hosts,
kernels, times, every status, an outlier, and hostile text wherever text can be. What
must be true of its report can be counted from :data:`FLEET` itself. :func:`audited`
makes a record of a real dump. :func:`write_dataset` writes any of them::

    dataset = write_dataset(tmp_path / "fleet", FLEET)
    dataset = write_dataset(tmp_path / "real", [audited(demo_core, host="web-1")])

Needs the extra ``drgn-tools[fleet]``: import it below ``pytest.importorskip``.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Optional

from msgspec.structs import replace

from drgn_tools import __version__
from drgn_tools.analysis.hangups import Blocked, Holder, hangups_of
from drgn_tools.analysis.hung import HungReport
from drgn_tools.analysis.patch_question import CodeRange, Question, TaskAnswer
from drgn_tools.fleet.dataset.dataset import Dataset, source_key
from drgn_tools.fleet.dataset.parquet import audit_file, tasks_file
from drgn_tools.kernel.waiting.records import Wait, WaitKind
from drgn_tools.records import Frame, KernelAudit, KernelInfo, Reason, TaskStack, Verdict

from . import fabricated

NEW_YEAR = datetime(2026, 1, 1, tzinfo=timezone.utc)

HOSTILE_TEXT = "<script>alert(1)</script>\x1b[31m\n\t,;|\"'`&amp;</td>\u202e${x}"
"""A tag, colour, lines, every separator, an entity, right-to-left."""


@dataclass(frozen=True)
class Source:
    """The final record of a source."""

    record: dict[str, Any]
    """By column of ``audits``; a column that is not given is null."""
    tasks: Optional[tuple[TaskStack, ...]] = None
    """``None`` for a failure."""
    answers: tuple[TaskAnswer, ...] = ()
    """The answer for each task about a live patch; empty if none was asked about."""
    hung: Optional[HungReport] = None
    """The tasks that hang; ``None`` if that was not asked."""

    def __getitem__(self, column: str) -> Any:
        return self.record.get(column)


def write_dataset(path: Path, sources: Iterable[Source]) -> Dataset:
    """Write a dataset of *sources* to the new folder *path*."""
    dataset = Dataset.create(path)
    for source in sources:
        tasks = (
            None
            if source.tasks is None
            else tasks_file(source["audit_id"], source.tasks, source.answers, source.hung)
        )
        dataset.commit(
            source_key(source["source"]), source["audit_id"], audit_file(source.record), tasks
        )
    return dataset


def write_orphan(dataset: Dataset, tasks: Sequence[TaskStack]) -> None:
    """Write tasks without a record, as a run leaves them if it is killed between writing the two."""
    content = tasks_file("0rphan", tasks)
    (dataset.tasks / f"{source_key('/var/crash/orphan')}-0rphan.parquet").write_bytes(content)


def audited(core: str, name: Optional[str] = None, **columns: Any) -> Source:
    """The record of a real dump.

    :param name: of the source; by default the path.
    :param columns: other values of ``audits``: ``host``, ``time``, ``tags`` ...
    """
    from drgn_tools import audit_kernel, open_program
    from drgn_tools.analysis.hung import hung_report

    prog = open_program(core=core)
    audit = audit_kernel(prog)
    source = of_audit(name or core, audit, **columns)
    return Source(source.record, source.tasks, source.answers, hung_report(prog, audit))


def of_audit(source: str, audit: KernelAudit, **columns: Any) -> Source:
    """The record of a source that could be audited."""
    verdicts = Counter(task.verdict for task in audit.tasks)
    partly = bool(audit.problems) or any(task.reason is Reason.UNREADABLE for task in audit.tasks)
    kernel = audit.kernel
    record = {
        **_common(source),
        "status": "partly unknown" if partly else "audited",
        "exit_code": 5 if partly else 0,
        "line": "; ".join(audit.problems) or None,
        "release": kernel.release,
        "build_id": kernel.build_id,
        "arch": kernel.arch,
        "unwinder": kernel.unwinder,
        "encoding": kernel.encoding,
        "reliable_stacktrace": kernel.reliable_stacktrace,
        "types": kernel.types,
        "cpus": kernel.cpus,
        "notes": list(kernel.notes),
        "last_words": list(kernel.last_words),
        "problems": list(audit.problems),
        "tasks": len(audit.tasks),
        **{verdict.value: verdicts[verdict] for verdict in Verdict},
        **columns,
    }
    return Source(record, audit.tasks)


def failed(source: str, exit_code: int, cause: str, line: str, **columns: Any) -> Source:
    """The record of a source that could not be audited."""
    record = {
        **_common(source),
        "status": "failed",
        "exit_code": exit_code,
        "cause": cause,
        "line": line,
        **columns,
    }
    return Source(record)


def _common(source: str) -> dict[str, Any]:
    # What every record has.
    number = int(source_key(source)[:4], 16)
    return {
        "source": source,
        "audit_id": hashlib.sha256(f"audit of {source}".encode()).hexdigest()[:32],
        "time": NEW_YEAR,
        "time_from": "manifest",
        "tags": {},
        "quarantined": False,
        "attempts": 1,
        "content_id": hashlib.sha256(source.encode()).hexdigest(),
        "size_bytes": 10_000_000 + number,
        "seconds": 1.5 + number % 100 / 100,
        "peak_memory_bytes": 100_000_000 + number * 1000,
        "worker": "worker-1",
        "tool": __version__,
        "audited_at": NEW_YEAR + timedelta(days=200),
    }


def day(number: int) -> datetime:
    """Return noon of a day in 2026; 0 is the first of January."""
    return NEW_YEAR + timedelta(days=number, hours=12)


# ---- a fabricated fleet

HOSTILE_TASK = replace(
    fabricated.HOSTILE,
    comm=HOSTILE_TEXT[:15],
    frames=(
        Frame(
            0xFFFF_FFFF_FFFF_FFFF, fabricated.symbol(f"{HOSTILE_TEXT}+0x1", "mod\nule"), regs=0x1000
        ),
        Frame(0xFFFF_FFFF_8130_D0C4, fabricated.symbol("vfs_read+0x8f")),
    ),
)

OTHER_BUILD = replace(fabricated.KERNEL, build_id="00112233445566778899aabbccddeeff00112233")
"""The same release from another build."""
OLDER = replace(fabricated.KERNEL, release="6.6.63", build_id="66" * 20, last_words=())
NEW_NAME = replace(fabricated.KERNEL, release=f"6.6-{HOSTILE_TEXT}", build_id=None, last_words=())


def _moved(tasks: Iterable[TaskStack], by: int) -> tuple[TaskStack, ...]:
    # Another boot: the same functions at other addresses.
    return tuple(
        replace(
            task,
            task=task.task + by,
            frames=tuple(
                frame
                if frame.user_mode or frame.symbol is None
                else replace(frame, ip=frame.ip ^ by)
                for frame in task.frames
            ),
        )
        for task in tasks
    )


def _clones(task: TaskStack, count: int, first_pid: int) -> tuple[TaskStack, ...]:
    return tuple(
        replace(task, pid=first_pid + i, task=task.task + 0x100000 * (i + 1)) for i in range(count)
    )


def _orc(tasks: Iterable[TaskStack]) -> tuple[TaskStack, ...]:
    return tuple(
        replace(
            task,
            verdict=Verdict.UNKNOWN,
            reason=Reason.ORC_UNCLEAR,
            why=fabricated.ORC_TASK.why,
            brief="orc_unclear",
            reason_frame=None,
        )
        for task in tasks
        if not task.on_cpu
    )


def _of_tasks(
    source: str, kernel: KernelInfo, tasks: Iterable[TaskStack], **columns: Any
) -> Source:
    return of_audit(source, KernelAudit(kernel, tuple(tasks)), **columns)


PATCHED_FUNCTION = "do_wait"


def asked_about_patch(source: Source) -> Source:
    """Return a source whose tasks were asked about a patch that is not loaded."""
    addresses = {
        frame.ip
        for task in source.tasks or ()
        for frame in task.frames
        if frame.symbol is not None and frame.symbol.name == PATCHED_FUNCTION
    }
    ranges = [CodeRange(PATCHED_FUNCTION, None, ip, ip + 1) for ip in sorted(addresses)]
    question = Question(ranges, 1, True, is_planned=True)
    record = {**source.record, "patch": PATCHED_FUNCTION, "patch_transition": "planned"}
    answers = tuple(map(question.answer, source.tasks or ()))
    return Source(record, source.tasks, answers, source.hung)


def hanging(source: Source) -> Source:
    """Return a source in which two tasks wait for each other, and a third waits for one of them."""
    first, second, third = (source.tasks or ())[:3]

    def waits(task: TaskStack, holder: TaskStack, lock: str, seconds: float) -> Blocked:
        wait = Wait(WaitKind.MUTEX, 0xFFFF_8881_0000_0000 + len(lock), 0, holder=holder.task)
        return Blocked(task, wait, lock, Holder(holder.task, holder), None, seconds, "exec_start")

    blocked = (
        waits(first, second, "rtnl_mutex", 3600.0),
        waits(second, first, "net_mutex", 3601.0),
        waits(third, first, "net_mutex", 20.0),
    )
    report = HungReport(blocked, tuple(hangups_of(blocked)), ())
    return Source(
        {**source.record, "hung": 3, "deadlocks": 1}, source.tasks, source.answers, report
    )


_QUIET = (fabricated.SLEEPER, *fabricated.KTHREADS, fabricated.IN_MODULE, fabricated.ZOMBIE)
_USUAL = (*_QUIET, fabricated.FAULTING, fabricated.RUNNING)
_SICK = (*_QUIET, *_clones(fabricated.PREEMPTED, 30, 700), *_clones(fabricated.TOO_DEEP, 2, 800))


def _each_host() -> Iterable[Source]:
    # Six similar hosts, and one of the same release with many more unreliable tasks.
    for number in range(6):
        source = _of_tasks(
            f"/var/crash/web-{number}/vmcore",
            OTHER_BUILD if number == 5 else fabricated.KERNEL,
            (*_moved(_USUAL, number << 32), *_clones(fabricated.SLEEPER, number, 900)),
            host=f"web-{number}",
            time=day(number),
            tags={"role": "web", "rack": str(number % 2)},
        )
        yield asked_about_patch(source) if number < 3 else source
    sick = _of_tasks(
        "s3://dumps/sick/vmcore", fabricated.KERNEL, _SICK, host="sick", time=day(40),
        tags={"role": "web"}, seconds=99.5, peak_memory_bytes=4_000_000_000,
    )  # fmt: skip
    yield hanging(sick)


def _failures() -> Iterable[Source]:
    yield failed(
        "/var/crash/empty/vmcore", 3, "input", "/var/crash/empty/vmcore: is empty", time=day(3)
    )
    yield failed(
        "/var/crash/no-types/vmcore", 4, "types", "no BTF in the dump; -s VMLINUX gives types",
        host="web-1", time=day(4), release="6.12.117",
    )  # fmt: skip
    yield failed(
        "/var/crash/killer/vmcore", 139, "crashed", "the process ended with SIGSEGV",
        quarantined=True, attempts=3, host="sick", time=None, time_from=None,
    )  # fmt: skip
    yield failed(
        f"/var/crash/bad-{HOSTILE_TEXT}", 3, "input", f"is no core: {HOSTILE_TEXT}",
        host=HOSTILE_TEXT, time=day(61),
    )  # fmt: skip


_EVERYTHING = replace(
    fabricated.AUDIT,
    # Bytes of a comm that are not UTF-8 are decoded as \\xNN: a record never has a surrogate.
    tasks=tuple(
        replace(task, comm="plain") if task is fabricated.HOSTILE else task
        for task in fabricated.TASKS
    ),
)

FLEET: tuple[Source, ...] = (
    *_each_host(),
    of_audit("/var/crash/everything/vmcore", _EVERYTHING, host="everything", time=day(50)),
    _of_tasks("/var/crash/web-0/older", OLDER, _USUAL, host="web-0", time=day(-30)),
    _of_tasks("/var/crash/db/1", fabricated.ORC_KERNEL, _orc(_USUAL), host="db", time=day(1)),
    _of_tasks("live:db@2", fabricated.ORC_KERNEL, _orc(_USUAL), host="db", time=None, time_from="now"),
    _of_tasks(
        f"/var/crash/{HOSTILE_TEXT}/vmcore", NEW_NAME, (*_USUAL, HOSTILE_TASK),
        host=HOSTILE_TEXT, time=day(60), tags={HOSTILE_TEXT: HOSTILE_TEXT},
    ),
    _of_tasks("/var/crash/no-tasks/vmcore", OLDER, (), host="bare", time=day(70)),
    *_failures(),
)  # fmt: skip
