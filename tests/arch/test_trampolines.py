# SPDX-License-Identifier: LGPL-2.1-or-later
"""The code of trampolines, as tables of symbols that are damaged are checked by it."""

from __future__ import annotations

import pytest

from drgn_tools.arch.registry import arch_named

AT = 0xFFFF_FFFF_8100_0000
CALLEE = AT + 16 + 0x100
NAMES = ("return_to_handler", "arch_rethook_trampoline", "__kretprobe_trampoline")


def is_trampoline(arch: str, name: str, code: bytes, callees: dict[str, int]) -> bool:
    return arch_named(arch).is_trampoline(name, AT, code, callees.get)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("code", "calls"),
    [
        # sub $16,%rsp; mov %rax,(%rsp); mov %rbp,%rdi; call +0x100
        ("4883ec10 48890424 4889ef e800010000", True),
        ("4883ec10 48890424 4889ef e801010000", False),
        ("4883ec10 48890424 4889ef e900010000", False),  # a jump
        ("e80b010000", True),
        ("e8fbffffff", False),
        ("", False),
    ],
)
def test_a_trampoline_of_x86_calls_its_function(name: str, code: str, calls: bool) -> None:
    raw = bytes.fromhex(code).ljust(128, b"\xcc")
    callees = dict.fromkeys(
        ("ftrace_return_to_handler", "arch_rethook_trampoline_callback", "trampoline_handler"),
        CALLEE,
    )
    assert is_trampoline("x86_64", name, raw, callees) is calls
    assert not is_trampoline("x86_64", name, raw, {})


def a64(*words: int) -> bytes:
    return b"".join(word.to_bytes(4, "little") for word in words).ljust(128, b"\0")


SUB_SP, BL, B = 0xD102_43FF, 0x9400_0000, 0x1400_0000


@pytest.mark.parametrize(
    ("name", "words", "expected"),
    [
        ("return_to_handler", (SUB_SP, BL | (16 + 0x100 - 4) // 4), True),
        ("return_to_handler", (SUB_SP, BL | (16 + 0x100) // 4), False),
        ("return_to_handler", (SUB_SP, B | (16 + 0x100 - 4) // 4), False),  # a jump
        ("return_to_handler", (0xD420_00E0,), False),
        ("__kretprobe_trampoline", (SUB_SP, BL | (16 + 0x100 - 4) // 4), True),  # v6.1
        # The call is in there, but that is not where it begins (arm64-6.1, 64 bytes behind).
        ("__kretprobe_trampoline", (0xA90A_5BF5, BL | (16 + 0x100 - 4) // 4), False),
        ("return_to_handler", (), False),
        ("__kretprobe_trampoline", (0xD420_00E0, 0xD421_0000), True),  # brk #7
        ("__kretprobe_trampoline", (0xD420_00C0, 0xD421_0000), False),  # brk #6
        ("__kretprobe_trampoline", (SUB_SP, 0xD420_00E0), False),
        ("arch_rethook_trampoline", (SUB_SP,), False),  # arm64 has none
    ],
)
def test_a_trampoline_of_arm64_calls_its_function_or_traps(
    name: str, words: tuple[int, ...], expected: bool
) -> None:
    callees = {"ftrace_return_to_handler": CALLEE, "trampoline_probe_handler": CALLEE}
    assert is_trampoline("aarch64", name, a64(*words), callees) is expected
    assert is_trampoline("aarch64", name, a64(*words), {}) is (expected and words[0] == 0xD420_00E0)


def test_a_function_may_lie_below_the_trampoline_that_calls_it() -> None:
    # bl with a negative distance
    below = {"ftrace_return_to_handler": AT + 4 - 0x40}
    code = a64(SUB_SP, BL | -0x10 & 0x3FF_FFFF)
    assert is_trampoline("aarch64", "return_to_handler", code, below)
