# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every reason in words: the sentence and the few words for a table."""

from __future__ import annotations

from typing import Optional

import pytest
from drgn import Architecture
from msgspec.structs import replace

from drgn_tools.arch.base import Layout
from drgn_tools.arch.registry import layout_of
from drgn_tools.arch.x86.encoding import Detection, Encoding
from drgn_tools.arch.x86.orc_entry import OrcForm
from drgn_tools.arch.x86.orc_tables import OrcImage, OrcProblem
from drgn_tools.records import Frame, Reason, SavedRegs, Verdict
from drgn_tools.unwind.base import End, Fault, Walk
from drgn_tools.verdict.no_verdict import NoVerdict, no_verdict
from drgn_tools.verdict.reasons import (
    Explanation,
    explain,
    explain_changed,
    explain_running,
    explain_unclear_cpu,
    explain_without_registers,
    place,
)
from drgn_tools.verdict.reliable import Judgement

from ..support.drawn_kernel import DrawnKernel, declare_stack_types
from ..support.fabricated import kernel_regs, regs_frame, symbol, user_regs

REGS = 0xFFFF_C900_0000_3D38
SCHEDULE = Frame(0xA0, symbol("schedule+0x27"))
STUB = Frame(0xA1, symbol("asm_exc_page_fault+0x26"))
IN_MODULE = Frame(0xA2, symbol("dig+0x3", "lab"))


def say(
    reason: Reason,
    step: Optional[int],
    *frames: Frame,
    bad_addr: Optional[int] = None,
    regs: tuple[SavedRegs, ...] = (),
) -> Optional[Explanation]:
    walk = Walk((), End.ERROR, bad_addr)
    return explain(Judgement(Verdict.UNRELIABLE, reason, step), walk, frames, regs)


def say_interrupted(entry: Optional[str], *inner: Frame) -> Optional[Explanation]:
    saved = kernel_regs(REGS, 0xFA11, "vfs_read+0x8f", entry)
    frames = (*inner, regs_frame(saved))
    return say(Reason.KERNEL_MODE_REGS, len(inner), *frames, regs=(saved,))


def test_reliable_stack_needs_no_reason() -> None:
    walk = Walk((), End.LAST_FRAME)
    assert explain(Judgement(Verdict.RELIABLE), walk, (SCHEDULE,), ()) is None


# ---- registers of kernel mode


def test_fault_says_what_and_where() -> None:
    assert say_interrupted("page fault", SCHEDULE, STUB) == Explanation(
        "page fault in vfs_read+0x8f",
        "page fault in vfs_read",
    )


def test_entry_that_is_not_known_is_one_or_the_other() -> None:
    assert say_interrupted(None, SCHEDULE) == Explanation(
        "interrupt or exception in vfs_read+0x8f",
        "interrupt or exception in vfs_read",
    )


def test_interrupted_module_is_named() -> None:
    saved = replace(
        kernel_regs(REGS, 0xFA11, "dig+0x3", "breakpoint"), symbol=symbol("dig+0x3", "lab")
    )
    assert say(Reason.KERNEL_MODE_REGS, 0, regs_frame(saved), regs=(saved,)) == Explanation(
        "breakpoint in dig+0x3 [lab]",
        "breakpoint in dig",
    )


def test_interrupted_code_without_a_name_is_its_address() -> None:
    saved = replace(kernel_regs(REGS, 0xFA11, "f+0x0", "page fault"), symbol=None)
    assert say(Reason.KERNEL_MODE_REGS, 0, regs_frame(saved), regs=(saved,)) == Explanation(
        "page fault in 0xfa11",
        "page fault in 0xfa11",
    )


def test_interrupted_function_loses_its_offset_and_nothing_else() -> None:
    saved = kernel_regs(REGS, 0xFA11, "odd+name+0x1", "page fault")
    found = say(Reason.KERNEL_MODE_REGS, 0, regs_frame(saved), regs=(saved,))
    assert found is not None
    assert found.brief == "page fault in odd+name"


def test_registers_are_those_of_the_frame_where_the_verdict_fell() -> None:
    first = kernel_regs(REGS, 0xFA11, "first+0x1", "page fault")
    second = kernel_regs(REGS + 512, 0xFA12, "second+0x2", "NMI")
    frames = (SCHEDULE, regs_frame(first), IN_MODULE, regs_frame(second))
    for step, said in ((1, "page fault in first+0x1"), (3, "NMI in second+0x2")):
        found = say(Reason.KERNEL_MODE_REGS, step, *frames, regs=(first, second, user_regs(0)))
        assert found is not None
        assert found.sentence == said


@pytest.mark.parametrize(
    "function",
    ["preempt_schedule_irq", "raw_irqentry_exit_cond_resched", "irqentry_exit_cond_resched"],
)
@pytest.mark.parametrize(
    ("entry", "by"),
    [
        ("timer interrupt", " by the timer interrupt"),
        ("page fault", " by a page fault"),
        ("event in kernel mode", " by an event in kernel mode"),
        (None, ""),
    ],
)
def test_preempted_says_by_what(function: str, entry: Optional[str], by: str) -> None:
    nameless = Frame(0xA5)
    inner = (SCHEDULE, nameless, Frame(0xA4, symbol(f"{function}+0x2b")), STUB)
    assert say_interrupted(entry, *inner) == Explanation(
        f"preempted{by} in vfs_read+0x8f",
        "preempted in vfs_read",
    )


def test_function_with_a_like_name_is_no_preemption() -> None:
    found = say_interrupted("timer interrupt", Frame(0xA4, symbol("preempt_schedule_irq_not+0x2b")))
    assert found is not None
    assert found.brief == "timer interrupt in vfs_read"


def test_preemption_further_out_is_another_one() -> None:
    saved = kernel_regs(REGS, 0xFA11, "vfs_read+0x8f", "page fault")
    frames = (SCHEDULE, regs_frame(saved), Frame(0xA4, symbol("preempt_schedule_irq+0x2b")))
    found = say(Reason.KERNEL_MODE_REGS, 1, *frames, regs=(saved,))
    assert found is not None
    assert found.brief == "page fault in vfs_read"


# ---- everything else on a stack


def test_bad_return_address_says_what_lies_below_it() -> None:
    frames = (SCHEDULE, IN_MODULE, Frame(0x4141))
    assert say(Reason.BAD_RETURN_ADDRESS, 2, *frames) == Explanation(
        "return address 0x4141 above dig+0x3 [lab] is not kernel text",
        "bad return address",
    )


def test_bad_return_address_of_the_first_frame_is_above_nothing() -> None:
    assert say(Reason.BAD_RETURN_ADDRESS, 0, Frame(0x4141), SCHEDULE) == Explanation(
        "return address 0x4141 is not kernel text",
        "bad return address",
    )


def test_broken_chain_says_the_pointer_and_the_last_good_frame() -> None:
    assert say(Reason.BROKEN_CHAIN, 1, SCHEDULE, Frame(0xBEEF), bad_addr=0x42) == Explanation(
        "frame pointer 0x42 after 0xbeef does not lead up the stack",
        "broken frame pointer",
    )


def test_broken_chain_after_the_first_frame_names_it() -> None:
    found = say(Reason.BROKEN_CHAIN, 0, SCHEDULE, bad_addr=0x42)
    assert found is not None
    assert found.sentence == "frame pointer 0x42 after schedule+0x27 does not lead up the stack"


def test_broken_chain_of_no_frame_begins_at_the_saved_stack_pointer() -> None:
    assert say(Reason.BROKEN_CHAIN, None) == Explanation(
        "frame pointer 0x0 after the saved stack pointer does not lead up the stack",
        "broken frame pointer",
    )


def test_too_many_entries_says_how_many_there_may_be() -> None:
    assert say(Reason.TOO_MANY_ENTRIES, 99) == Explanation(
        "100 or more entries; live patching can use 99",
        "100 or more entries",
    )


def test_unclear_text_says_which_address() -> None:
    assert say(Reason.TEXT_UNCLEAR, 1, SCHEDULE, Frame(0x4141)) == Explanation(
        "return address 0x4141 above schedule+0x27 may or may not be kernel text:"
        " the lists of modules, trampolines or BPF programs are damaged",
        "may not be kernel text",
    )


def test_unclear_end_says_which_kernels() -> None:
    assert say(Reason.END_UNCLEAR, 0, SCHEDULE) == Explanation(
        "the stack ends without user registers, which kernels before 5.8 judge differently",
        "no user registers",
    )


@pytest.mark.parametrize(
    ("addr", "said"),
    [(0xFFFF_C900_0000_3000, "0xffffc90000003000"), (-8, "0xfffffffffffffff8"), (None, "0x0")],
)
def test_unreadable_memory_says_where(addr: Optional[int], said: str) -> None:
    assert say(Reason.UNREADABLE, 0, SCHEDULE, bad_addr=addr) == Explanation(
        f"memory at {said} is not in the dump",
        "not in the dump",
    )


@pytest.mark.parametrize(
    ("reason", "sentence", "brief"),
    [
        (Reason.NO_UNWIND_DATA, "no unwind data for dig+0x3 [lab]", "no unwind data"),
        (
            Reason.UNDEFINED_UNWIND_STATE,
            "the unwind data say that the stack is undefined at dig+0x3 [lab]",
            "undefined unwind state",
        ),
        (
            Reason.REGISTER_NOT_SAVED,
            "the unwind data of dig+0x3 [lab] need a register that is not saved",
            "register not saved",
        ),
        (
            Reason.OFF_STACK,
            "dig+0x3 [lab] leads to 0x77, off the stack",
            "leads off the stack",
        ),
        (
            Reason.WRONG_DIRECTION,
            "dig+0x3 [lab] leads down the stack, to 0x77",
            "wrong direction",
        ),
    ],
)
def test_faults_of_an_orc_walk(reason: Reason, sentence: str, brief: str) -> None:
    found = say(reason, 1, SCHEDULE, IN_MODULE, bad_addr=0x77)
    assert found == Explanation(sentence, brief)
    # On a CPU the same is said of the last frame that is not a guess.
    guess = replace(STUB, guessed=True)
    walk = Walk((), End.ERROR, 0x77, fault=Fault(reason.value))
    running = explain_running(7, walk, (SCHEDULE, STUB, IN_MODULE, guess))
    assert running.sentence == f"running on CPU 7; {sentence}"


def test_first_frame_off_the_stack() -> None:
    found = say(Reason.OFF_STACK, None, bad_addr=0x77)
    assert found and found.sentence == "the saved stack pointer leads to 0x77, off the stack"


def test_damaged_unwind_data() -> None:
    walk = Walk((), End.UNWIND_DATA_UNCLEAR, 0x88)
    judgement = Judgement(Verdict.UNKNOWN, Reason.UNWIND_DATA_UNCLEAR, 0)
    sentence = "the unwind data of schedule+0x27 are damaged at 0x88"
    found = explain(judgement, walk, (STUB, IN_MODULE, SCHEDULE), ())
    assert found == Explanation(sentence, "unwind data unclear")
    running = explain_running(7, walk, (STUB, IN_MODULE, SCHEDULE))
    assert running.sentence == f"running on CPU 7; {sentence}"
    first = explain(replace(judgement, step=None), walk, (), ())
    assert first and first.sentence == "the unwind data are damaged at 0x88"


def test_running_says_on_which_cpu() -> None:
    assert explain_without_registers(7, True) == Explanation("running on CPU 7", "running on CPU 7")
    assert explain_without_registers(7, False) == Explanation(
        "running on CPU 7; the dump does not have its registers", "running on CPU 7"
    )
    assert explain_unclear_cpu(7) == Explanation(
        "running on CPU 7; its per-CPU data say that they belong to another CPU, and so may its registers",
        "running on CPU 7",
    )


@pytest.mark.parametrize(
    ("walk", "said"),
    [
        (Walk((), End.USER_REGS), ""),
        (Walk((), End.LAST_FRAME, overflowed="irq"), "; the irq stack overflowed"),
        (
            Walk((), End.ERROR, 7),
            "; frame pointer 0x7 after dig+0x3 [lab] does not lead up the stack",
        ),
        (Walk((), End.NOT_IN_DUMP, -1), f"; memory at {(1 << 64) - 1:#x} is not in the dump"),
        (Walk((), End.EMPTY), "; its registers lead to no frame"),
        (
            Walk((), End.ERROR, 7, "task"),
            "; the task stack overflowed; frame pointer 0x7 after dig+0x3 [lab] does not lead up"
            " the stack",
        ),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_running_says_what_is_wrong_with_the_stack(walk: Walk, said: str) -> None:
    brief = "running on CPU 7" + (", stack overflow" if walk.overflowed else "")
    assert explain_running(7, walk, (SCHEDULE, STUB, IN_MODULE)) == Explanation(
        f"running on CPU 7{said}", brief
    )


def test_task_that_ran_each_time_it_was_read_says_how_often() -> None:
    assert explain_changed(5) == Explanation(
        "it ran during each of 5 reads", "changed while it was read"
    )


@pytest.mark.parametrize(
    ("frame", "said"),
    [(SCHEDULE, "schedule+0x27"), (IN_MODULE, "dig+0x3 [lab]"), (Frame(0x4141), "0x4141")],
)
def test_place_of_a_frame(frame: Frame, said: str) -> None:
    assert place(frame) == said


# ---- kernels that give no verdict


@pytest.fixture
def layout() -> Layout:
    kernel = DrawnKernel()
    declare_stack_types(kernel)
    return layout_of(kernel.prog)


def test_kernel_of_encoded_frame_pointers_gives_verdicts(layout: Layout) -> None:
    assert no_verdict(layout) is None
    # An unwinder that cannot be told is no obstacle: the entry code encodes.
    assert no_verdict(replace(layout, unwinder=None)) is None


def test_guess_unwinder_gives_no_verdict(layout: Layout) -> None:
    sentence = "this kernel uses the guess unwinder, which has no reliable stack traces"
    assert no_verdict(replace(layout, unwinder="guess")) == NoVerdict(Reason.NOT_ENCODED, sentence)


def test_orc_gives_verdicts_unless_its_tables_cannot_be_used(layout: Layout) -> None:
    plain = Detection(Encoding.NONE, ())
    image = OrcImage(OrcForm(3, 11, None, False), 1, 2, 3, (), None, None, True, frozenset({1}))
    assert no_verdict(replace(layout, unwinder="orc", orc=image, detection=plain)) is None
    problem = OrcProblem("its types do not describe struct orc_entry")
    assert no_verdict(replace(layout, unwinder="orc", orc=problem)) == NoVerdict(
        Reason.ORC_UNCLEAR,
        "this kernel uses the ORC unwinder, but its types do not describe struct orc_entry",
    )


def test_frame_pointers_that_are_not_encoded_give_no_verdict(layout: Layout) -> None:
    plain = replace(layout, detection=Detection(Encoding.NONE, ()))
    sentence = "this kernel does not encode pt_regs in the frame pointer"
    assert no_verdict(plain) == NoVerdict(Reason.NOT_ENCODED, sentence)


def test_kernel_without_reliable_stack_traces_gives_no_verdict(layout: Layout) -> None:
    assert no_verdict(replace(layout, reliable_stacktrace=False)) == NoVerdict(
        Reason.NO_RELIABLE_STACKTRACE,
        "this kernel was built without reliable stack traces (CONFIG_STACK_VALIDATION)",
    )


def test_x86_32_names_no_option_that_it_cannot_have() -> None:
    kernel = DrawnKernel(Architecture.I386)
    declare_stack_types(kernel)
    encoded = Detection(Encoding.MSB, ())
    layout = replace(layout_of(kernel.prog), detection=encoded, reliable_stacktrace=False)
    assert no_verdict(layout) == NoVerdict(
        Reason.NO_RELIABLE_STACKTRACE, "x86-32 kernels have no reliable stack traces"
    )


def test_unclear_encoding_is_said_in_the_words_of_the_probe(layout: Layout) -> None:
    sentence = "the entry code holds two encodings: a, b"
    unclear = replace(
        layout, detection=Detection(Encoding.NONE, (), sentence), reliable_stacktrace=False
    )
    assert no_verdict(unclear) == NoVerdict(Reason.ENCODING_UNCLEAR, sentence)
