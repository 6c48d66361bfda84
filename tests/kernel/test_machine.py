# SPDX-License-Identifier: LGPL-2.1-or-later
"""Name, boot and uptime of a machine drawn in bytes."""

from __future__ import annotations

from typing import Any

import pytest

from drgn_tools.kernel.machine import boot_id, nodename, uptime_s

from ..support.drawn_kernel import DrawnKernel


@pytest.fixture
def kernel() -> DrawnKernel:
    k = DrawnKernel()
    k.struct("new_utsname", "char sysname[65]; char nodename[65]")
    k.struct("uts_namespace", "struct new_utsname name")
    k.struct("timekeeper", "unsigned long ktime_sec; long offs_boot")
    k.struct("tk_data", "unsigned int seq; struct timekeeper timekeeper")
    return k


@pytest.mark.parametrize(
    ("name", "told"), [(b"db1", "db1"), (b"(none)", None), (b"", None), (b"\xff", "\\xff")]
)
def test_the_host_is_what_uname_says(kernel: DrawnKernel, name: bytes, told: object) -> None:
    kernel.variable("init_uts_ns", "struct uts_namespace", {"name": {"nodename": name}})
    assert nodename(kernel.prog) == told


def test_the_boot_id_is_that_of_proc(kernel: DrawnKernel) -> None:
    kernel.variable("sysctl_bootid", "char [16]", bytes.fromhex("0123456789abcdef" * 2))
    assert boot_id(kernel.prog) == "01234567-89ab-cdef-0123-456789abcdef"


def test_a_boot_id_that_nothing_asked_for_is_none(kernel: DrawnKernel) -> None:
    kernel.variable("sysctl_bootid", "char [16]")
    assert boot_id(kernel.prog) is None


@pytest.mark.parametrize(
    ("ktime_sec", "offs_boot", "seconds"),
    [
        (90, 0, 90),
        (90, 3_600_000_000_000, 3690),  # an hour of suspend
        (1 << 60, 0, None),
        (5, -6_000_000_000, None),
    ],
)
def test_uptime_has_the_time_of_suspend(
    kernel: DrawnKernel, ktime_sec: int, offs_boot: int, seconds: object
) -> None:
    keeper: dict[str, Any] = {"ktime_sec": ktime_sec, "offs_boot": offs_boot}
    kernel.variable("tk_core", "struct tk_data", {"timekeeper": keeper})
    assert uptime_s(kernel.prog) == seconds


def test_uptime_of_a_kernel_with_auxiliary_clocks(kernel: DrawnKernel) -> None:
    keeper: dict[str, Any] = {"ktime_sec": 7, "offs_boot": 0}
    kernel.variable("timekeeper_data", "struct tk_data [2]", [{"timekeeper": keeper}])
    kernel.constant("TIMEKEEPER_CORE", 0)
    assert uptime_s(kernel.prog) == 7


def test_a_kernel_that_has_none_of_it(kernel: DrawnKernel) -> None:
    assert (nodename(kernel.prog), boot_id(kernel.prog), uptime_s(kernel.prog)) == (None,) * 3
