# SPDX-License-Identifier: LGPL-2.1-or-later
"""What can be wrong with a dump. A kind of damage is a function that uses only the dice, so a seed stands for one damaged dump."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from typing import Optional

import drgn
import msgspec

from drgn_tools.arch.x86.orc_tables import OrcImage
from drgn_tools.kernel.tasks import Task

from ..support.fuzz_types import damage_anything, damage_words
from .files import PAGE, Changes
from .whole import Owner, Span, Whole, first_of

__all__ = ("KINDS", "Damage", "damage")

_ODD = (
    *(0, 1, 2, 7, 8, 0x7F, 0xFF, 4095, 4096, 0xFFFF, 1 << 16, 1 << 24, (1 << 31) - 1, 1 << 31),
    *((1 << 32) - 1, 1 << 40, 0x4141_4141_4141_4141, (1 << 47) - 8, 1 << 47, (1 << 63) - 1),
    *(1 << 63, 0xFFFF_8000_0000_0000, 0xFFFF_FFFF_8000_0000, (1 << 64) - 4096, (1 << 64) - 8),
    (1 << 64) - 1,
)


class Damage(msgspec.Struct, frozen=True):
    """One damaged dump."""

    kind: str
    changes: Changes
    touched: frozenset[Owner]
    """Owners whose memory was changed. Missing memory does not count: it can be detected."""
    is_in_headers: bool
    """Whether headers or notes are damaged: then other memory may be at an address."""
    what: str
    """The damage in words."""


class Edit:
    """The changes that make a damaged dump, as they are collected."""

    def __init__(self, whole: Whole, dice: random.Random) -> None:
        self.whole, self.dice = whole, dice
        self.pages: dict[int, bytearray] = {}
        self.missing: set[int] = set()
        self.patches: list[tuple[int, bytes]] = []
        self.size: Optional[int] = None
        self.said: list[str] = []

    def page(self, pfn: int) -> bytearray:
        """Return a page that may be written to. Raises LookupError if it is not in the dump."""
        if pfn not in self.pages:
            page = self.whole.file.page(pfn)
            if page is None:
                raise LookupError(f"page frame {pfn:#x} is not in the dump")
            self.pages[pfn] = bytearray(page)
        return self.pages[pfn]

    def write_physical(self, address: int, data: bytes) -> None:
        """Write bytes at a physical address."""
        self.said.append(f"{address:#x}={data[:16].hex()}")
        while data:
            room = PAGE - address % PAGE
            page = self.page(address // PAGE)
            page[address % PAGE : address % PAGE + len(data[:room])] = data[:room]
            address, data = address + room, data[room:]

    def write(self, address: int, data: bytes) -> None:
        """Write bytes at a virtual address."""
        for at, part, where in self.whole.pieces(address, len(data)):
            self.write_physical(
                where.physical + at % PAGE, data[at - address : at - address + part]
            )

    def read(self, address: int, size: int) -> bytes:
        """Read bytes at a virtual address, as they are in the whole dump."""
        return bytes(self.whole.prog.read(address, size))

    def value(self, old: int, address: int, others: Sequence[int]) -> int:
        """Return another value for a word."""
        dice = self.dice
        mask = (1 << 8 * self.whole.word_bytes) - 1
        choice = dice.randrange(8)
        if choice < 2:
            found = old ^ 1 << dice.randrange(8 * self.whole.word_bytes)
        elif choice < 4 and others:
            found = dice.choice(others) + dice.choice((0, 0, 0, 1, -1, 8, -8, 16))
        elif choice == 4:
            found = old + dice.choice((-8, 8, 1, -1, 16, -16, 4096, -4096))
        elif choice == 5:
            found = address + dice.choice((0, 0, 8, -8, 1))
        elif choice == 6:
            found = dice.choice(_ODD)
        else:
            found = dice.getrandbits(8 * self.whole.word_bytes)
        return found & mask

    def change_word(
        self, address: int, others: Sequence[int] = (), size: Optional[int] = None
    ) -> None:
        """Write another value to a word of virtual memory."""
        size = size or self.whole.word_bytes
        old = int.from_bytes(self.read(address, size), "little")
        new = self.value(old, address, others)
        self.write(address, (new & (1 << 8 * size) - 1).to_bytes(size, "little"))

    def change_physical_word(self, address: int, size: int, others: Sequence[int] = ()) -> None:
        """Write another value to a word of physical memory."""
        old = int.from_bytes(self.whole.file.physical(address, size), "little")
        new = self.value(old, address, others)
        self.write_physical(address, (new & (1 << 8 * size) - 1).to_bytes(size, "little"))

    def write_changes(self, address: int, old: bytes, new: bytes) -> None:
        """Write the pieces of virtual memory that differ."""
        for at in range(0, len(old), 64):
            if old[at : at + 64] != new[at : at + 64]:
                self.write(address + at, new[at : at + 64])

    def change_field(self, place: range) -> None:
        """Write another value to a field of the file."""
        size = len(place)
        old = int.from_bytes(self.whole.file.read(place.start, size), "little")
        choice = self.dice.randrange(4)
        if choice == 0:
            new = old ^ 1 << self.dice.randrange(8 * size)
        elif choice == 1:
            new = old + self.dice.choice((-1, 1, 8, -8, 4096, -4096, 1 << 20))
        elif choice == 2:
            new = self.dice.choice(_ODD)
        else:
            new = self.dice.getrandbits(8 * size)
        data = (new & (1 << 8 * size) - 1).to_bytes(size, "little")
        self.patches.append((place.start, data))
        self.said.append(f"file {place.start:#x}={data.hex()}")

    def finish(self, kind: str) -> Damage:
        """Return the damaged dump."""
        file, whole = self.whole.file, self.whole
        touched: set[Owner] = set()
        for pfn, page in self.pages.items():
            if pfn in self.missing:
                continue
            before = file.page(pfn)
            assert before is not None
            for at in range(0, PAGE, 4):
                if page[at : at + 4] != before[at : at + 4]:
                    touched |= whole.owners(pfn * PAGE + at, pfn * PAGE + at + 4)
        patches = file.with_memory({p: bytes(d) for p, d in self.pages.items()}, self.missing)
        said = self.said[:6] + ["..."] * (len(self.said) > 6)
        if self.missing:
            said.append("without " + ", ".join(f"{pfn:#x}" for pfn in sorted(self.missing)[:6]))
        if self.size is not None:
            said.append(f"cut to {self.size} bytes")
        return Damage(
            kind,
            Changes((*patches, *self.patches), self.size),
            frozenset(touched),
            bool(self.patches),
            " ".join(said),
        )


# ---- tasks


def _few(dice: random.Random) -> range:
    return range(dice.choice((1, 1, 1, 1, 2, 3, 8)))


def _members(whole: Whole) -> list[tuple[int, int]]:
    layout = whole.layout.task
    places = (getattr(layout, name) for name in layout.__struct_fields__)
    return [place for place in places if isinstance(place, tuple)]


def _tasks(edit: Edit) -> None:
    whole, dice = edit.whole, edit.dice
    others = [t.addr for t in whole.tasks] + [t.stack_addr for t in whole.tasks]
    for _ in _few(dice):
        task = dice.choice(whole.tasks)
        if dice.randrange(12) == 0:
            size = whole.layout.task.size_bytes
            edit.write(task.addr, dice.choice((bytes(size), b"\xff" * size, dice.randbytes(size))))
            continue
        offset, size = dice.choice(_members(whole))
        if size > 8:  # comm
            edit.write(task.addr + offset, dice.randbytes(size))
        else:
            edit.change_word(task.addr + offset, others, size)


def _lists(edit: Edit) -> None:
    whole, dice, layout = edit.whole, edit.dice, edit.whole.layout.task
    tasks, threads = layout.tasks_next[0], layout.thread_node_next[0]
    nodes = [t.addr + tasks for t in whole.tasks]
    heads = [t.signal_addr + layout.signal_thread_head for t in whole.tasks if t.signal_addr]
    nodes_of_threads = [t.addr + threads for t in whole.tasks] + heads
    for _ in _few(dice):
        if dice.randrange(2):
            places, others = nodes, nodes
        else:
            places, others = nodes_of_threads, nodes_of_threads
        edit.change_word(dice.choice(places) + dice.choice((0, whole.word_bytes)), others)


def _two_consistent(edit: Edit) -> None:
    """Take a task off a list as the kernel would. Nobody can detect that, so the task counts as touched."""
    whole, dice = edit.whole, edit.dice
    offset, word = whole.layout.task.tasks_next[0], whole.word_bytes
    # Only a process with one thread: otherwise its other threads would be missing, too.
    threads = [t.tgid for t in whole.tasks]
    node = dice.choice([t for t in whole.tasks if threads.count(t.tgid) == 1]).addr + offset
    ahead = int.from_bytes(edit.read(node, word), "little")
    behind = int.from_bytes(edit.read(node + word, word), "little")
    edit.write(behind, ahead.to_bytes(word, "little"))
    edit.write(ahead + word, behind.to_bytes(word, "little"))
    poison = (0x100 if word == 4 else 0xDEAD_0000_0000_0100).to_bytes(word, "little")
    edit.write(node, dice.choice((bytes(word), b"\xff" * word, poison)))


def _stacks(edit: Edit) -> None:
    whole, dice, word = edit.whole, edit.dice, edit.whole.word_bytes
    for _ in _few(dice):
        task = dice.choice(whole.sleepers)
        record = whole.records[task.addr]
        begin, end = task.thread_sp, task.stack_addr + whole.layout.thread_size_bytes
        if not task.stack_addr <= begin < end:
            continue
        words = _words(edit.read(begin, end - begin), word)
        ips = {frame.ip for frame in record.frames}
        # Return addresses, and pointers into the stack, which lead to the next frame.
        hot = [i for i, w in enumerate(words) if w in ips or task.stack_addr <= w < end]
        number = dice.choice(hot) if hot and dice.randrange(3) else dice.randrange(len(words))
        others = [
            *(frame.ip for frame in record.frames),
            *(w for w in words if w),
            *(frame.ip for frame in dice.choice(whole.audit.tasks).frames),
            *(t.stack_addr for t in dice.sample(whole.tasks, 3)),
            *(begin + word * dice.randrange(len(words)) for _ in range(4)),
        ]
        if dice.randrange(10) == 0:
            size = min(dice.choice((64, 256, 4096)), end - begin - number * word)
            junk = (bytes(size), b"\xff" * size, dice.randbytes(size))
            edit.write(begin + number * word, dice.choice(junk))
        else:
            edit.change_word(begin + number * word, others)


def _words(data: bytes, size: int) -> list[int]:
    return [int.from_bytes(data[at : at + size], "little") for at in range(0, len(data), size)]


def _saved_returns(edit: Edit) -> None:
    whole, dice, word = edit.whole, edit.dice, edit.whole.word_bytes
    spans = [(t, span) for t in whole.sleepers for span in whole.saved_returns(t)]
    if not spans:
        return _stacks(edit)
    for _ in _few(dice):
        task, (begin, size) = dice.choice(spans)
        others = [f.ip for f in whole.records[task.addr].frames] + [begin, task.stack_addr]
        size_used = min(size, 256) if dice.randrange(4) else size
        edit.change_word(begin + word * dice.randrange(max(1, size_used // word)), others)
    return None


# ---- what tasks share


def _in_spans(edit: Edit, spans: Sequence[Span], others: Sequence[int]) -> None:
    dice, word = edit.dice, edit.whole.word_bytes
    for _ in _few(dice):
        begin, size = dice.choice(spans)
        at = begin + word * dice.randrange(max(1, size // word))
        try:
            edit.change_word(at, others, min(word, size))
        except drgn.FaultError:
            continue


def _cpus(edit: Edit) -> None:
    whole = edit.whole
    others = [t.addr for t in whole.tasks] + [t.stack_addr for t in whole.tasks]
    _in_spans(edit, [*whole.shared["cpus"], *whole.shared["masks of CPUs"]], others)


def _modules(edit: Edit) -> None:
    whole, dice, word = edit.whole, edit.dice, edit.whole.word_bytes
    if not whole.modules:
        return _lists_of_text(edit)
    type_ = whole.modules[0].type_.type
    names = ("state", "list", "name", "mem", "core_layout", "init_layout", "kallsyms", "arch")
    places = [
        (drgn.offsetof(type_, name), drgn.sizeof(type_.member(name).type))
        for name in names
        if type_.has_member(name)
    ]
    modules = [m.value_() for m in whole.modules]
    nodes = [m + places[1][0] for m in modules]
    texts = [r.start for r in whole.kernel._text._loaded]
    for _ in _few(dice):
        if dice.randrange(8) == 0:
            edit.change_word(whole.prog["modules"].address_ + dice.choice((0, word)), nodes)
            continue
        offset, size = dice.choice(places)
        size = min(size, 8 * word)
        at = dice.choice(modules) + offset + word * dice.randrange(max(1, size // word))
        edit.change_word(at, nodes + texts, min(size, word))
    return None


def _lists_of_text(edit: Edit) -> None:
    spans = edit.whole.shared["lists of text"]
    if not spans:
        return _cpus(edit)
    _in_spans(edit, spans, [begin for begin, _ in spans])
    return None


def _live_patches(edit: Edit) -> None:
    whole, dice, word = edit.whole, edit.dice, edit.whole.word_bytes
    spans = whole.patch_structs
    if not spans:
        return _modules(edit)
    others = [begin + word * dice.randrange(max(1, size // word)) for begin, size in spans]
    others += [f.ip for s in dice.sample(whole.audit.tasks, 4) for f in s.frames]
    _in_spans(edit, spans, others)
    return None


def _types(edit: Edit) -> None:
    whole, dice = edit.whole, edit.dice
    old = whole.btf.data
    if dice.randrange(2):
        new = damage_words(dice, old, whole.used_words, whole.number_of_types)
    else:
        new = damage_anything(dice, old)
    edit.write_changes(whole.btf.addr, old, new)


def _symbols(edit: Edit) -> None:
    whole, dice = edit.whole, edit.dice
    if not whole.symbol_tables:
        return _types(edit)
    for piece in dice.sample(whole.symbol_tables, dice.choice((1, 1, 1, 2))):
        edit.write_changes(piece.addr, piece.data, damage_anything(dice, piece.data))
    return None


def _orc(edit: Edit) -> None:
    whole, dice = edit.whole, edit.dice
    orc = whole.orc
    if not isinstance(orc, OrcImage):
        return _code(edit)
    for _ in _few(dice):
        frames = dice.choice([s for s in whole.audit if s.frames]).frames
        rules = whole.orc_rules(f.ip for f in frames)
        if not rules:
            continue
        rule = min(max(0, dice.choice(rules) + dice.choice((0, 0, 0, 1, -1, 5))), orc.count - 1)
        if dice.randrange(2):
            edit.change_word(orc.ips_addr + 4 * rule, (), 4)
        else:
            at = orc.entries_addr + 6 * rule + 2 * dice.randrange(3)
            edit.change_word(at, (), 2)
    return None


def _code(edit: Edit) -> None:
    """Damage code that we read: entry code, and the code around the frames of tasks."""
    whole, dice = edit.whole, edit.dice
    begin, size = whole.shared["code"][0]
    addresses = [f.ip for s in whole.audit for f in s.frames if begin <= f.ip < begin + size]
    for name in (
        "asm_exc_page_fault",
        "error_entry",
        "paranoid_entry",
        "__unwind_start",
        "el1h_64_sync",
    ):
        at = first_of(name, whole.prog)
        if at is not None:
            addresses += [at] * 50
    for _ in _few(dice):
        at = dice.choice(addresses) - dice.randrange(-64, 64)
        edit.write(at, dice.choice((b"\0", b"\x90", b"\xcc", b"\xe8", dice.randbytes(4))))


def _log(edit: Edit) -> None:
    spans = edit.whole.shared.get("log")
    if not spans:
        return _tasks(edit)
    begin, size = edit.dice.choice(spans)
    _in_spans(edit, [(begin, min(size, 4096)), (begin, size)], [begin])
    return None


def _page_tables(edit: Edit) -> None:
    whole, dice = edit.whole, edit.dice
    choices: list[Span] = []
    task = dice.choice(whole.tasks)
    choices += whole.spans_of(task)
    choices += whole.shared[dice.choice(list(whole.shared))] or choices
    for _ in _few(dice):
        begin, size = dice.choice(choices)
        found = list(whole.pieces(begin, min(size, 16 * PAGE)))
        if not found:
            continue
        where = dice.choice(found)[2]
        # Mostly the last level: an entry above it maps much more memory.
        entry = where.entries[-1] if dice.randrange(4) else dice.choice(where.entries)
        root = whole._root
        others = [root | 0x63, where.physical | 0x63, entry & -PAGE | 0x63, 0x1000 | 0x163]
        edit.change_physical_word(entry, where.entry_bytes, others)


# ---- pages


def _read_pages(edit: Edit) -> list[int]:
    whole, dice = edit.whole, edit.dice
    if whole.read and dice.randrange(2):
        begin, size = dice.choice(whole.read)
        return [begin // PAGE, (begin + size - 1) // PAGE]
    spans = whole.spans_of(dice.choice(whole.tasks))
    if dice.randrange(3) == 0:
        spans = whole.shared[dice.choice(list(whole.shared))] or spans
    begin, size = dice.choice(spans)
    at = begin + PAGE * dice.randrange(max(1, size // PAGE))
    return [address // PAGE for address, _ in whole.physical([(at, 1)])]


def _pages(edit: Edit) -> None:
    dice = edit.dice
    pfns = [pfn for _ in _few(dice) for pfn in _read_pages(edit)]
    pfns = sorted({p for p in pfns if edit.whole.file.page(p) is not None})
    what = dice.choice(("missing", "missing", "zero", "ones", "junk", "swapped"))
    if what == "missing" and edit.whole.file.can_leave_out:
        edit.missing.update(pfns)
        return
    if what == "swapped" and len(pfns) < 2:
        pfns += [p for p in _read_pages(edit) if edit.whole.file.page(p) is not None]
    before = [bytes(edit.page(pfn)) for pfn in pfns]
    for number, pfn in enumerate(pfns):
        other = before[(number + 1) % len(pfns)]
        junk = {"zero": bytes(PAGE), "ones": b"\xff" * PAGE, "swapped": other}
        edit.page(pfn)[:] = junk.get(what) or dice.randbytes(PAGE)
    edit.said.append(f"{what} {' '.join(f'{pfn:#x}' for pfn in pfns)}")


def _anything_read(edit: Edit) -> None:
    whole, dice, word = edit.whole, edit.dice, edit.whole.word_bytes
    if not whole.read:
        return _pages(edit)
    for _ in _few(dice):
        begin, size = dice.choice(whole.read)
        if size < word:
            continue
        at = begin + word * dice.randrange(size // word)
        edit.change_physical_word(at, word, [t.addr for t in dice.sample(whole.tasks, 4)])
    return None


# ---- the file


def _headers(edit: Edit) -> None:
    fields = edit.whole.file.header_fields()
    for _ in _few(edit.dice):
        edit.change_field(edit.dice.choice(fields))


def _notes(edit: Edit) -> None:
    place = edit.whole.file.notes()
    if not place:
        return _headers(edit)
    # NT_PRSTATUS comes first, then VMCOREINFO.
    end = min(len(place), 4096)
    for _ in _few(edit.dice):
        at = place.start + edit.dice.randrange(end) // 4 * 4
        edit.change_field(range(at, min(at + edit.dice.choice((4, 8)), place.stop)))
    return None


_NUMBERS = (
    b"0",
    b"1",
    b"-1",
    b"7fffffffffffffff",
    b"ffffffffffffffff",
    b"x",
    b"",
    b"4095",
    b"8192",
)


def _vmcoreinfo(edit: Edit) -> None:
    place = edit.whole.file.notes()
    data = edit.whole.file.read(place.start, len(place))
    lines = list(re.finditer(rb"[A-Z]+(?:\([\w.]+\))?=([^\n]*)\n", data))
    for _ in _few(edit.dice):
        if not lines:
            break
        line = edit.dice.choice(lines)
        old = line.group(1)
        if edit.dice.randrange(2):
            new = edit.dice.choice(_NUMBERS)
            new = new[: len(old)].rjust(len(old), edit.dice.choice((b"0", b"0", b" ", b"f")))
        else:
            digits = bytearray(old)
            if not digits:
                continue
            digits[edit.dice.randrange(len(digits))] = edit.dice.choice(b"0123456789abcdef\n=")
            new = bytes(digits)
        edit.patches.append((place.start + line.start(1), new))
        edit.said.append(f"{line.group(0)!r} -> {new!r}")


def _cut_short(edit: Edit) -> None:
    size = edit.whole.file.size
    edit.size = edit.dice.choice(
        (
            edit.dice.randrange(8192),
            edit.dice.randrange(size),
            edit.dice.randrange(size),
            size - 1 - edit.dice.randrange(4096),
        )
    )


KINDS: dict[str, tuple[int, Callable[[Edit], None]]] = {
    "tasks": (12, _tasks),
    "task lists": (12, _lists),
    "unlinked task": (2, _two_consistent),
    "stacks": (14, _stacks),
    "saved return addresses": (6, _saved_returns),
    "cpus": (5, _cpus),
    "modules": (7, _modules),
    "lists of text": (5, _lists_of_text),
    "types": (6, _types),
    "symbols": (5, _symbols),
    "orc": (7, _orc),
    "code": (4, _code),
    "log": (2, _log),
    "page tables": (10, _page_tables),
    "pages": (10, _pages),
    "anything read": (10, _anything_read),
    "headers": (4, _headers),
    "notes": (4, _notes),
    "vmcoreinfo": (5, _vmcoreinfo),
    "cut short": (1, _cut_short),
    "live patches": (30, _live_patches),
}
"""How often each kind is chosen, and the function that makes it. A new kind is one line and one function."""


def damage(whole: Whole, name: str, seed: int, kinds: Sequence[str] = ()) -> Damage:
    """Return the damaged dump of a seed.

    :param name: Name of the dump: the same seed damages other dumps in other ways
    :param kinds: Use only these kinds
    """
    dice = random.Random(f"{name} {seed}")
    names = list(kinds or (k for k in KINDS if k != "live patches" or whole.patch_structs))
    kind = dice.choices(names, [KINDS[n][0] for n in names])[0]
    edit = Edit(whole, dice)
    KINDS[kind][1](edit)
    return edit.finish(kind)


def task_of(whole: Whole, address: int) -> Optional[Task]:
    """Return a task by its address."""
    return next((t for t in whole.tasks if t.addr == address), None)
