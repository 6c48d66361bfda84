# SPDX-License-Identifier: LGPL-2.1-or-later
"""The same stacks for the kernel's source and for drgn-tools, and what comes out differently."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from random import Random
from typing import Optional

from drgn_tools.kernel.stack_memory import StackMemory, TaskStackReader
from drgn_tools.kernel.tasks import Task
from drgn_tools.records import Reason, Verdict
from drgn_tools.unwind import orc
from drgn_tools.unwind.base import End, Signature, Walk
from drgn_tools.unwind.orc import OrcWalker
from drgn_tools.verdict.reliable import Judgement, judge

from .library import Library, Stack, Walked
from .words import HOW_OFTEN, MIXES, Code, Words, moved, mutated

__all__ = ("Difference", "Figures", "compare_random_stacks")

_PAGE_BYTES = 4096
_BEGIN = _PAGE_BYTES
"""Where the task's stack lies in the arena: there is a page below it, as a guard page would be."""
_BATCH = 100
_CACHED = 1 << 16
_MAX_DIFFERENCES = 20
"""How many are described. All are counted."""
_ROUND = 20_000
_SIZES = (1024, 2048, 512, 1024 + 8)
"""Bytes of the task's stack. Most walks on a small one meet an end of it; those with 100 entries need room."""
_MUTANTS = 3
"""Of a stack that has a signature."""
_REGS_BYTES = 168
_STEP_ERROR, _STEP_EXACT, _STEP_USER = 1, 2, 4


@dataclass
class Difference:
    """One stack about which the kernel and drgn-tools say different things."""

    what: str
    """What differs."""
    mix: str
    """What the stack is made of."""
    stack: str
    """Its words, from thread.sp on; of a running task also the registers."""
    kernel: str
    ours: str

    def __str__(self) -> str:
        return (
            f"{self.what} ({self.mix})\n  stack:  {self.stack}\n"
            f"  kernel: {self.kernel}\n  ours:   {self.ours}"
        )


@dataclass
class _Case:
    """The stack that is being compared."""

    mix: str
    sp: int
    data: bytes
    """From the beginning of the task's stack on."""
    regs: bytes = b""


@dataclass
class Figures:
    """What was compared."""

    stacks: Counter[str] = field(default_factory=Counter)
    """By the kind of walk and the mix."""
    frames: int = 0
    signatures: int = 0
    """Walks that the fast path has told, too."""
    verdicts: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    departures: Counter[str] = field(default_factory=Counter)
    """Stacks that are not compared, or not whole, because drgn-tools departs from the kernel on purpose."""
    difference_count: int = 0
    differences: list[Difference] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        """Yield the figures as text."""
        yield f"stacks       {sum(self.stacks.values()):>9,}   {_listed(self.stacks)}"
        yield f"frames       {self.frames:>9,}"
        yield f"signatures   {self.signatures:>9,}"
        yield f"verdicts     {sum(self.verdicts.values()):>9,}   {_listed(self.verdicts)}"
        yield f"ends         {sum(self.ends.values()):>9,}   {_listed(self.ends)}"
        yield f"departures   {sum(self.departures.values()):>9,}   {_listed(self.departures)}"
        yield f"differences  {self.difference_count:>9,}"


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.most_common())


class _Arena:
    """Stands for the program where TaskStackReader reads memory."""

    def __init__(self, begin: int) -> None:
        self.begin = begin
        self.data = b""

    def read(self, addr: int, size_bytes: int) -> bytes:
        return self.data[addr - self.begin : addr - self.begin + size_bytes]


class _Comparison:
    def __init__(
        self,
        library: Library,
        stack_bytes: int,
        code: dict[str, list[int]],
        random: Random,
        figures: Figures,
    ) -> None:
        self.library = library
        self.random = random
        self.mixes = self.each_mix()
        self.code = code
        self.figures = figures
        self.case = _Case("", 0, b"")
        self.stacks: list[Stack] = []
        self.begin = library.arena + _BEGIN
        self.stack_bytes = stack_bytes
        self.walker = OrcWalker(library.rules())
        self.arena = _Arena(self.begin)
        self.reader = TaskStackReader(
            self.arena,
            stack_bytes,
            _PAGE_BYTES,
            library.layout.first_frame_offset,
        )
        self.is_text = lru_cache(_CACHED)(library.is_text)

    def each_mix(self) -> Iterator[str]:
        while True:
            mixes = [mix for mix in MIXES for _ in range(HOW_OFTEN.get(mix, 5))]
            self.random.shuffle(mixes)
            yield from mixes

    def differs(self, what: str, kernel: object, ours: object) -> None:
        self.figures.difference_count += 1
        if len(self.figures.differences) >= _MAX_DIFFERENCES:
            return
        case = self.case
        stack = self.named(case.data[max(case.sp - self.begin, 0) :])
        if case.regs:
            stack = f"{self.named(case.data)}; registers {self.named(case.regs)}"
        else:
            stack = f"thread.sp {self.name(case.sp)}: {stack}"
        difference = Difference(what, case.mix, stack, self.shown(kernel), self.shown(ours))
        self.figures.differences.append(difference)

    def shown(self, found: object) -> str:
        if isinstance(found, Walked):
            return f"{found._replace(steps=[])}, steps {' '.join(map(self.name, found.steps))}"
        if isinstance(found, Walk):
            end = f"{found.end.value}, {found.fault and found.fault.value}"
            return (
                f"{len(found.steps)} steps, {end}, steps {' '.join(map(self.name, _flat(found)))}"
            )
        return str(found)

    def named(self, data: bytes) -> str:
        return " ".join(map(self.name, array("Q", data[: len(data) & -8])))

    def name(self, word: int) -> str:
        """Return what a word is: an address of the stack, of the kernel, or a number."""
        offset = word - self.begin
        if -_PAGE_BYTES <= offset < 4 * _PAGE_BYTES:
            return f"stack{offset:+#x}"
        addr = self.library.unshifted(word)
        if addr is None:
            return f"{word:#x}"
        try:
            symbol = self.library.prog.symbol(addr)
        except LookupError:
            return f"text:{addr:#x}"
        return f"{symbol.name}{addr - symbol.address:+#x}"

    # ---- tasks that sleep

    def sleeping(self, count: int) -> None:
        """Compare walks of so many stacks; of those with a signature also mutants."""
        stacks = [Stack("task", self.begin, self.begin + self.stack_bytes)]
        self.library.set_stacks(stacks)
        words = Words(self.code, stacks, self.random)
        left = count
        while left > 0:
            self.library.set_originals(words.originals(64))
            mix = next(self.mixes)
            batch = min(left, _BATCH)
            data = words.draw(mix, batch * self.stack_bytes // 8)
            sps = array("Q", [self.thread_sp() for _ in range(batch)])
            n = self.stack_bytes
            if mix == "built":
                data = b"".join(
                    words.build(data[n * i : n * (i + 1)], sp - self.begin, self.library)
                    for i, sp in enumerate(sps)
                )
            good = self.batch(mix, data, sps)
            left -= batch
            good = good[: max(left, 0) // (_MUTANTS + 1)]
            if not good:
                continue
            if self.random.randrange(2):
                self.library.set_originals(words.originals(64))
            # A stack and its mutants one after the other: so the fast path knows its frame layout.
            mutants = []
            for i, used in good:
                one, sp = data[n * i : n * (i + 1)], sps[i] - self.begin
                if self.random.randrange(2):
                    one = self.of_system_call(one)
                mutants.append((one, sp))
                for _ in range(_MUTANTS):
                    other, at = one, sp
                    if not self.random.randrange(4) and 0 < sp < n:
                        other, at = moved(one, sp, self.begin, used, self.random)
                    if other is one or self.random.randrange(2):
                        other = mutated(other, data[: 8 * 1024], used, self.random)
                    mutants.append((other, at))
            sps = array("Q", [self.begin + sp for _, sp in mutants])
            self.batch(f"mutants of {mix}", b"".join(stack for stack, _ in mutants), sps)
            left -= len(sps)

    def of_system_call(self, stack: bytes) -> bytes:
        """Return a stack that ends with the registers of a system call: its kind is not its length."""
        regs = bytearray(stack[-_REGS_BYTES:])
        self.put_registers(regs, orig_ax=self.random.randrange(2), cs=0x33)
        return stack[:-_REGS_BYTES] + bytes(regs)

    def put_registers(self, regs: bytearray, **values: int) -> None:
        """Write registers into a ``struct pt_regs``."""
        offsets = {name: at for name, at, _ in self.library.layout.regs.fields}
        for name, value in values.items():
            regs[offsets[name] : offsets[name] + 8] = value.to_bytes(8, "little")

    def thread_sp(self) -> int:
        random, words = self.random, self.stack_bytes // 8
        kind = random.randrange(20)
        if kind == 0:
            edge = random.choice((self.begin, self.begin + self.stack_bytes))
            return edge + random.choice((1, 8)) * random.randrange(-20, 20)
        if kind == 1:
            return self.begin + random.randrange(self.stack_bytes)
        return self.begin + 8 * random.randrange(words // 2)

    def batch(self, mix: str, data: bytes, sps: array[int]) -> list[tuple[int, list[int]]]:
        """Compare some stacks.

        :return: Indexes of those with a signature, and where the words lie that it may rest on
        """
        n = self.stack_bytes
        self.figures.stacks[f"sleeping, {mix}"] += len(sps)
        good = []
        for i, walked in enumerate(self.library.walk(data, n, _BEGIN, sps)):
            sp = sps[i]
            self.arena.data = data[n * i : n * (i + 1)]
            self.case = _Case(mix, sp, self.arena.data)
            task = _task(sp, self.begin)
            stack = self.reader.read(self.begin, sp)
            signature = self.walker.signature(task, stack, lambda _: self.library.recover)
            walk = self.walker.walk_sleeping(task, stack, self.library.recover)
            if walk.end is End.NOT_IN_DUMP and stack.is_below_data(walk.bad_addr or 0):
                stack = self.reader.read_whole(self.begin)
                walk = self.walker.walk_sleeping(task, stack, self.library.recover)
            judgement = judge(walk, self.is_text, self.walker.kernel_regs_are_unreliable)
            if self.frame_off_stack(sp):
                self.figures.departures["frame of __switch_to_asm() not on the stack"] += 1
                if judgement.verdict is Verdict.RELIABLE:
                    self.differs("verdict", walked, judgement)
                continue
            if self.same_walk(walked, walk):
                self.same_verdict(walked, walk, judgement)
            if signature is not None:
                good.append((i, self.words_used(walk)))
                self.same_signature(walk, signature)
        return good

    def words_used(self, walk: Walk) -> list[int]:
        """Return the offsets of the words of a stack with return addresses, saved bp and sp, and cs."""
        found = [step.found_at - self.begin for step in walk.steps if step.found_at is not None]
        regs = [step.regs - self.begin for step in walk.steps if step.regs is not None]
        used = [at + n for at in found for n in (0, -8, -8, -16)]
        return used + [at + n for at in regs for n in (32, 128, 136, 152)]

    def frame_off_stack(self, sp: int) -> bool:
        """The kernel reads ``struct inactive_task_frame`` without a test of its bounds; on a real one
        this would be the guard page."""
        first_frame = sp + self.library.layout.first_frame_offset
        return first_frame < self.begin and first_frame + 16 > self.begin - _PAGE_BYTES

    def same_walk(self, walked: Walked, walk: Walk) -> bool:
        figures = self.figures
        figures.frames += len(walk.steps)
        figures.ends[walk.end.value if walk.fault is None else walk.fault.value] += 1
        steps = _flat(walk)
        if walked.endless:
            # Both go round; the kernel was not asked for a verdict.
            figures.departures["endless"] += 1
            kept = len(walked.steps)
            if walk.end is not End.ERROR or steps[:kept] != walked.steps[: len(steps)]:
                self.differs("a walk without end", walked, walk)
            return False
        if _is_same(walked, walk):
            return True
        departure = self.departure(walked, walk)
        if departure is None:
            self.differs("steps", walked, walk)
        else:
            figures.departures[departure] += 1
        return False

    def departure(self, walked: Walked, walk: Walk) -> Optional[str]:
        """Return which "Unlike the kernel" of orc.py explains a difference."""
        if not self.case.regs:
            return None
        if _is_same(walked, walk, overflow_is_error=True):
            return "overflow of a CPU's stack is no error"
        if not self.library.tests_length_after_move:
            with _no_test_of_the_length():
                walk = self.walk_running(self.walker)
            if _is_same(walked, walk) or _is_same(walked, walk, overflow_is_error=True):
                return "what does not fit on a stack is off it"
        return None

    def same_verdict(self, walked: Walked, walk: Walk, judgement: Judgement) -> None:
        self.figures.verdicts[judgement.reason.value if judgement.reason else "reliable"] += 1
        expected = Verdict.UNRELIABLE if walked.ret else Verdict.RELIABLE
        entries = _entry_count(walk, judgement)
        if (judgement.verdict, entries) != (expected, walked.entry_count):
            self.differs("verdict", walked, judgement)

    def same_signature(self, walk: Walk, signature: Signature) -> None:
        self.figures.signatures += 1
        kernel = [step for step in walk.steps if not step.user_mode]
        with_regs = [step for step in walk.steps if step.regs is not None]
        regs_of = self.library.layout.regs.read
        expected = Signature(
            tuple(step.ip for step in kernel),
            tuple(i for i, step in enumerate(kernel) if step.regs is not None),
            bool(walk.steps) and walk.steps[-1].user_mode,
            tuple(
                (step.regs, regs_of(step.raw_regs))
                for step in with_regs
                if step.regs and step.raw_regs
            ),
        )
        if signature != expected or walk.end not in (End.USER_REGS, End.LAST_FRAME):
            self.differs("signature", f"{walk.end.value}, {expected}", signature)

    # ---- tasks that run

    def running(self, count: int) -> None:
        """Compare walks from the registers of a CPU, which has stacks of every kind."""
        size = self.stack_bytes
        stacks = []
        at = self.begin
        for kind, bytes_ in (
            ("task", size),
            ("irq", size // 16 * 8),
            ("exception", size // 16 * 8),
            ("entry", 512),
        ):
            stacks.append(Stack(kind, at, at + bytes_))
            at += bytes_ + 64
        # Registers that begin on the last stack may end behind it.
        size = at + _REGS_BYTES - self.begin
        self.stacks = stacks
        self.library.set_stacks(stacks)
        words = Words(self.code, stacks, self.random)
        for first in range(0, count, _BATCH):
            self.library.set_originals(words.originals(64))
            mix = next(self.mixes)
            batch = min(count - first, _BATCH)
            data = words.draw(mix, batch * size // 8)
            regs = b"".join(self.registers(words, mix) for _ in range(batch))
            self.running_batch(mix, stacks, data, regs)

    def registers(self, words: Words, mix: str) -> bytes:
        """Return a ``struct pt_regs``, most often with a sensible ip, sp and cs."""
        regs = bytearray(words.draw(mix, _REGS_BYTES // 8))
        kinds = [kind for kind, addrs in words.code.items() if addrs]
        ip = self.random.choice(words.code[self.random.choice(kinds)])
        sensible = {"ip": ip, "cs": 0x10, "sp": words.of_stack()}
        put = {name: value for name, value in sensible.items() if self.random.randrange(20)}
        self.put_registers(regs, **put)
        return bytes(regs)

    def running_batch(self, mix: str, stacks: list[Stack], data: bytes, regs: bytes) -> None:
        size = stacks[-1].end + 64 + _REGS_BYTES - self.begin
        self.figures.stacks[f"running, {mix}"] += len(data) // size
        for i, walked in enumerate(self.library.walk(data, size, _BEGIN, None, regs)):
            one = data[size * i : size * (i + 1)]
            raw = regs[_REGS_BYTES * i : _REGS_BYTES * (i + 1)]
            self.case = _Case(mix, 0, one, raw)
            self.same_walk(walked, self.walk_running(self.walker))

    def walk_running(self, walker: OrcWalker) -> Walk:
        """Walk the stack that is being compared."""
        case = self.case
        memory = [
            # Its data goes on behind the end: a walker that asks for that gets what the kernel gets.
            StackMemory(
                s.begin, s.end - s.begin, s.begin, case.data[s.begin - self.begin :], kind=s.kind
            )
            for s in self.stacks
        ]

        def find(addr: int) -> Optional[StackMemory]:
            return next((m for m in memory if m.begin_addr <= addr < m.end_addr), None)

        registers = self.library.layout.regs.read(case.regs)
        task = _task(0, self.begin)
        return walker.walk_running(task, registers, find, self.library.recover)


@contextmanager
def _no_test_of_the_length() -> Iterator[None]:
    """Let the walker follow stack_access_ok() as it was before v5.18."""

    def stack_access_ok(self: orc._Unwinder, addr: int, len_bytes: int) -> bool:
        if self.stack is not None and self.stack.on_stack(addr, len_bytes):
            return True
        return self.get_stack_info(addr)

    kept = orc._Unwinder.stack_access_ok
    orc._Unwinder.stack_access_ok = stack_access_ok  # type: ignore[method-assign]
    try:
        yield
    finally:
        orc._Unwinder.stack_access_ok = kept  # type: ignore[method-assign]


def _task(sp: int, begin: int) -> Task:
    return Task(
        addr=1, pid=1, tgid=1, comm="", state="S", is_runnable=False, cpu=0, on_cpu=False,
        kthread=False, stack_addr=begin, thread_sp=sp, has_stack=True, switches=0, tasks_next=0,
        tasks_prev=0, thread_node_next=0, thread_node_prev=0, signal_addr=0,
    )  # fmt: skip


def _flat(walk: Walk) -> list[int]:
    """Return the steps of a walk as the library does."""
    flat: list[int] = []
    for step in walk.steps:
        flags = (
            (_STEP_ERROR if step.guessed else 0)
            | (_STEP_EXACT if step.exact else 0)
            | (_STEP_USER if step.user_mode else 0)
        )
        flat += (step.ip, step.regs or 0, step.found_at or 0, flags)
    return flat


def _is_same(walked: Walked, walk: Walk, overflow_is_error: bool = False) -> bool:
    """Return whether both have the same frames and the same end.

    :param overflow_is_error: If our walk began in a guard page, take all of it to be an error, as the kernel does
    """
    steps, error = _flat(walk), walk.end is End.ERROR
    if overflow_is_error and walk.overflowed is not None:
        steps[3::4] = [flags | _STEP_ERROR for flags in steps[3::4]]
        error = True
    kernel = (walked.step_count, walked.error, walked.steps)
    return kernel == (len(walk.steps), error, steps[: len(walked.steps)])


def _entry_count(walk: Walk, judgement: Judgement) -> int:
    """Return how many addresses the kernel has stored when it comes to this verdict."""
    if judgement.verdict is Verdict.RELIABLE:
        return sum(not step.user_mode for step in walk.steps)
    if judgement.step is None:
        return 0
    return judgement.step + (judgement.reason is not Reason.BAD_RETURN_ADDRESS)


def compare_random_stacks(library: Library, count: int, seed: int) -> Figures:
    """Compare walks of random stacks.

    :param count: How many stacks. One in eight is that of a task on a CPU; the others sleep.
    :param seed: Other numbers give other stacks
    """
    random = Random(seed)
    figures = Figures()
    code = Code(library, random)
    share = min(_ROUND, -(-count // len(_SIZES)))
    for first in range(0, count, share):
        # Each round has other words.
        size = _SIZES[first // share % len(_SIZES)]
        comparison = _Comparison(library, size, code.draw(random), random, figures)
        stacks = min(share, count - first)
        comparison.sleeping(stacks - stacks // 8)
        comparison.running(stacks // 8)
    return figures
