# SPDX-License-Identifier: LGPL-2.1-or-later
"""Random stacks that lead an unwinder to every kind of rule, and around the edges of the stack.

A stack is words drawn one by one from a mix. A mix is a table of words in which each kind
of word has its share, so that drawing a word is nothing but an index.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Mapping, Sequence
from random import Random

from drgn_tools.arch.x86.orc_entry import ENTRY_BYTES, OrcEntry, OrcType
from drgn_tools.arch.x86.pt_regs import IRET_FRAME_OFFSET
from drgn_tools.kernel.probing import symbol_address
from drgn_tools.kernel.text import TextKind

from .library import Library, Stack

__all__ = ("HOW_OFTEN", "MIXES", "Code", "Words", "mutated")

_TABLE_WORDS = 1 << 13
_INDEXES = 1 << 16
_PER_KIND = 400
"""Different addresses of each kind."""
_SHORT_BYTES = 24

MIXES: Mapping[str, Mapping[str, int]] = {
    "calls": {
        "call of a word": 20, "short call": 20, "call": 15, "call saves bp": 15, "bp": 10, "end": 5, "regs": 2,
        "stack": 25, "cs": 5, "module": 3, "made code": 1,
    },
    "registers": {
        "regs": 20, "partial": 12, "register": 8, "indirect": 6, "short call": 15, "bp": 5,
        "end": 4, "stack": 35, "cs": 25, "null": 2, "rewritten": 2,
    },
    "long": {"short call": 60, "call of a word": 33, "call saves bp": 3, "end": 1, "stack": 2, "module": 1},
    "rules": {
        "made up": 60, "short call": 5, "regs": 3, "partial": 3, "end": 2, "stack": 40, "cs": 5,
    },
    "built": {"stack": 30, "cs": 5, "short call": 5, "null": 5, "garbage": 5},
    "deep": {"deep": 996, "end": 3, "regs": 1},
    "edges": {
        "short call": 15, "call": 10, "bp": 15, "bp from bp": 4, "regs": 10, "partial": 8,
        "register": 4, "indirect": 6, "edge of stack": 40, "unaligned": 8, "cs": 8, "end": 4,
    },
    "all": {
        "call of a word": 5, "short call": 10, "call": 10, "call saves bp": 10, "bp": 10, "bp from bp": 4, "indirect": 6,
        "register": 6, "regs": 10, "partial": 8, "end": 4, "undefined": 2, "no rule": 2,
        "module": 6, "made code": 4, "made up": 4, "init": 3, "border": 5, "rewritten": 4, "fork": 1,
        "stack": 30, "edge of stack": 6, "unaligned": 3, "cs": 12, "null": 2, "garbage": 4,
    },
}  # fmt: skip
"""Share of each kind of word, in parts of their sum."""
HOW_OFTEN: Mapping[str, int] = {"deep": 1, "long": 3, "built": 10}
"""How often a mix is taken, if not 5 times: walks of some take long."""
_BUILT_OF = {
    "call of a word": 10, "short call": 20, "call": 5, "call saves bp": 20, "bp": 20, "regs": 12,
    "partial": 3, "bp from bp": 3, "made up": 8, "module": 5, "border": 5,
}  # fmt: skip
_NO_CALLER = (OrcType.UNDEFINED, OrcType.END_OF_STACK)


class Words:
    """The words that stacks of one kernel are made of.

    :param code: Of :meth:`Code.draw`
    :param stacks: Where the stacks lie
    """

    def __init__(
        self, code: Mapping[str, Sequence[int]], stacks: Sequence[Stack], random: Random
    ) -> None:
        self._random = random
        self._stacks = stacks
        self.code = code
        self._tables = {name: self._table(mix) for name, mix in MIXES.items()}

    def draw(self, mix: str, count: int) -> bytes:
        """Return so many words of a mix."""
        indexes = array("H", self._random.randbytes(2 * count))
        return array("Q", map(self._tables[mix].__getitem__, indexes)).tobytes()

    def build(self, data: bytes, sp: int, library: Library) -> bytes:
        """Return the stack of a task with frames as its rules want them, and other words in between.

        :param data: The stack, with other words
        :param sp: ``thread.sp``, as an offset
        """
        random, begin = self._random, self._stacks[0].begin
        stack = bytearray(data)

        def put(at: int, word: int) -> None:
            if 0 <= at <= len(stack) - 8:
                stack[at : at + 8] = word.to_bytes(8, "little")

        bp_at, ip_at, top, signal = sp + 40, sp + 48, sp + 56, False
        kinds = [kind for kind in _BUILT_OF if self.code.get(kind)]
        shares = [_BUILT_OF[kind] for kind in kinds]
        for kind in random.choices(kinds, shares, k=random.randrange(12)):
            word = ip = random.choice(self.code[kind])
            if not random.randrange(25) and self.code["rewritten"]:
                word = random.choice(self.code["rewritten"])
                ip = library.recover(word, begin + ip_at)
            entry = library.find(ip if signal else ip - 1)
            if entry is None or entry.type in _NO_CALLER or entry.indirect:
                continue
            if entry.base not in ("sp", "bp"):
                continue
            put(ip_at, word)
            if entry.base == "sp":
                cfa = top + entry.offset
            else:
                cfa = top + 8 * random.randrange(1, 8)
                put(bp_at, begin + cfa - entry.offset)
            signal = entry.signal
            if entry.type is OrcType.CALL:
                ip_at, top = cfa - 8, cfa
                if entry.bp_from == "cfa":
                    bp_at = cfa + entry.bp_offset
                elif entry.bp_from == "bp":
                    place = 8 * random.randrange(1, 8)
                    put(bp_at, begin + top + place - entry.bp_offset)
                    bp_at = top + place
                continue
            regs = cfa if entry.type is OrcType.REGS else cfa - IRET_FRAME_OFFSET
            user = not random.randrange(4)
            ip_at, bp_at, top = regs + 128, regs + 32, regs + 168 + 8 * random.randrange(3)
            if not random.randrange(10):  # unaligned, maybe on the registers themselves
                top = regs + random.randrange(100, 200)
            put(regs + 136, 0x33 if user else 0x10)
            put(regs + 152, random.getrandbits(47) if user else begin + top)
        put(ip_at, random.choice(self.code["end"]))
        return bytes(stack)

    def originals(self, count: int) -> list[int]:
        """Return what recovery of return addresses may find."""
        kinds = ("call of a word", "short call", "call", "bp", "end", "null", "rewritten")
        return [self._word(self._random.choice(kinds)) for _ in range(count)]

    def of_stack(self) -> int:
        """Return an address on a stack."""
        return self._word("stack")

    def _table(self, mix: Mapping[str, int]) -> list[int]:
        # A kernel need not have each kind of code: no BPF, no module.
        kinds = [kind for kind in mix if kind not in self.code or self.code[kind]]
        drawn = self._random.choices(kinds, [mix[kind] for kind in kinds], k=_TABLE_WORDS)
        return [self._word(kind) for kind in drawn] * (_INDEXES // _TABLE_WORDS)

    def _word(self, kind: str) -> int:
        random = self._random
        if kind in self.code:
            addr: int = random.choice(self.code[kind])
            return addr
        stack: Stack = random.choice(self._stacks)
        words = (stack.end - stack.begin) // 8
        if kind == "stack":
            return stack.begin + 8 * random.randrange(words)
        if kind == "edge of stack":
            edge = random.choice((stack.begin, stack.end))
            return edge + random.choice((8, 8, 8, 1)) * random.randrange(-30, 30)
        if kind == "unaligned":
            return stack.begin + random.randrange(stack.end - stack.begin)
        if kind == "cs":
            return random.choice((0x10, 0x10, 0x33, 0x23, 0x1_0000_0010, 0xFFFF_0033))
        if kind == "null":
            return random.choice((0, 0, 1, 2))
        return random.choice(
            (random.getrandbits(64), random.getrandbits(47), random.getrandbits(8))
        )


def _kind_of(entry: OrcEntry) -> str:
    if entry.type is OrcType.UNDEFINED:
        return "undefined"
    if entry.type is OrcType.END_OF_STACK:
        return "end"
    if entry.indirect:
        return "indirect"
    if entry.base not in ("sp", "bp"):
        return "register"
    if entry.type is OrcType.REGS:
        return "regs"
    if entry.type is OrcType.REGS_PARTIAL:
        return "partial"
    if entry.bp_from == "bp":
        return "bp from bp"
    if entry.base == "bp":
        return "bp"
    if entry.bp_from is not None:
        return "call saves bp"
    if entry.offset == 8:
        return "call of a word"
    return "short call" if entry.offset <= _SHORT_BYTES else "call"


class Code:
    """The code of one kernel by the kind of its rules."""

    def __init__(self, library: Library, random: Random) -> None:
        self._library = library
        self._made_up = library.make_up_rules(random)
        image, prog = library.image, library.prog
        raw = prog.read(image.entries_addr, ENTRY_BYTES * image.count)
        places: dict[bytes, list[int]] = defaultdict(list)
        for i in range(image.count - 1):
            places[raw[ENTRY_BYTES * i : ENTRY_BYTES * (i + 1)]].append(i)
        self._rules: dict[str, list[list[int]]] = defaultdict(list)
        for entry, found in places.items():
            decoded = image.form.decode(entry)
            if decoded is not None:
                self._rules[_kind_of(decoded)].append(found)

    def draw(self, random: Random) -> dict[str, list[int]]:
        """Return some addresses of each kind, as they are in this process.

        They are drawn by rule, so that rare rules are among them.
        """
        library, starts = self._library, self._library.starts

        def inside(i: int) -> int:
            # As a return address, or as the address of an instruction.
            return starts[i] + random.randrange(starts[i + 1] - starts[i] + 2)

        def in_text(*kinds: TextKind) -> list[int]:
            text = library.text
            ranges = [r for r in (*text._loaded, *text._init) if r.kind in kinds]
            chosen = [random.choice(ranges) for _ in range(_PER_KIND)] if ranges else []
            return [random.randrange(r.start - 1, r.end + 2) for r in chosen]

        code = {
            kind: [inside(random.choice(random.choice(found))) for _ in range(_PER_KIND)]
            for kind, found in self._rules.items()
        }
        words = self._rules["call of a word"]
        deep = [random.choice(random.choice(words)) for _ in range(_PER_KIND)]
        code["deep"] = [starts[i] + 1 for i in deep if starts[i] < starts[i + 1]]
        code["border"] = [random.choice(starts) + random.choice((0, 1)) for _ in range(_PER_KIND)]
        for symbol in ("_stext", "_etext", "_sinittext", "_einittext"):
            addr = symbol_address(library.prog, symbol)
            if addr is not None:
                code["border"] += [addr + n for n in (-256, -1, 0, 1, 2, 256)]
        code["made up"] = [addr + random.choice((0, 1, 1, 1)) for addr in self._made_up]
        code["module"] = in_text(TextKind.MODULE)
        # Its data has a rule, too: that of the last code before it.
        memory = [random.choice(library.module_memory) for _ in code["module"][: _PER_KIND // 4]]
        code["module"] += [random.randrange(start - 1, end + 2) for start, end in memory]
        code["init"] = in_text(TextKind.INIT)
        code["made code"] = in_text(TextKind.BPF, TextKind.FTRACE, TextKind.KPROBE)
        code["no rule"] = [library.image.ips_addr + random.randrange(1 << 20) for _ in range(20)]
        code["rewritten"] = [
            addr + n
            for addr in (library.rethook, library.return_to_handler)
            if addr is not None
            for n in (0, 0, 0, 0, 1)
        ]
        # Since v6.5 the one in C is no place where a task begins.
        found = [symbol_address(library.prog, s) for s in ("ret_from_fork", "ret_from_fork_asm")]
        code["fork"] = [addr + n for addr in found if addr is not None for n in (0, 0, 1)]
        return {kind: [library.shifted(addr) for addr in addrs] for kind, addrs in code.items()}


def mutated(data: bytes, words: bytes, used: Sequence[int], random: Random) -> bytes:
    """Return a stack that differs from another in one to three words.

    :param words: Words to take
    :param used: Where words lie that decide where its frames are, or their neighbours. Most often it is one of them
    """
    changed = bytearray(data)
    count = len(data) // 8
    for _ in range(random.randrange(1, 4)):
        at = random.choice(used) if used and random.randrange(4) else 8 * random.randrange(count)
        if not 0 <= at <= 8 * (count - 1):
            continue
        kind = random.randrange(4)
        if kind == 0:
            other = 8 * random.randrange(count)
            changed[at : at + 8] = data[other : other + 8]
        elif kind < 3:
            old = int.from_bytes(data[at : at + 8], "little")
            new = old + random.choice((-24, -16, -8, -1, 1, 8, 16, 24))
            changed[at : at + 8] = (new & (1 << 64) - 1).to_bytes(8, "little")
        else:
            taken = 8 * random.randrange(len(words) // 8)
            changed[at : at + 8] = words[taken : taken + 8]
    return bytes(changed)


def moved(
    data: bytes, sp: int, begin: int, used: Sequence[int], random: Random
) -> tuple[bytes, int]:
    """Return a stack with a gap of random size in it, and its ``thread.sp``, as an offset.

    :param sp: ``thread.sp`` of the stack without the gap, as an offset
    :param begin: Virtual address of the stack
    :param used: As for :func:`mutated`. The gap is near one of them
    """
    at = min(max(random.choice(used or (0,)) + 8 * random.randrange(4), sp), len(data))
    size = min(8 * random.randrange(1, 20), sp)
    lower = bytearray(data[sp:at])
    for i in range(0, len(lower) - 7, 8):
        word = int.from_bytes(lower[i : i + 8], "little")
        if begin + sp <= word < begin + at:
            lower[i : i + 8] = (word - size).to_bytes(8, "little")
    return data[: sp - size] + bytes(lower) + data[at - size :], sp - size
