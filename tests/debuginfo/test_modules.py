# SPDX-License-Identifier: LGPL-2.1-or-later
"""The list of modules and where the memory of each lies, in every form the kernel has had."""

from __future__ import annotations

import pytest
from drgn import FaultError, Object

from drgn_tools.debuginfo.modules import listed_modules, module_memory, module_name

from ..support.drawn_kernel import DrawnKernel
from ..support.drawn_text import LOADED, UNFORMED, declare_module, mem, modules, with_mem

CORE = (LOADED, LOADED + 0x9000)
CORE_TEXT = (LOADED, LOADED + 0x2000)
INIT = (LOADED + 0xA000, LOADED + 0xB000)
INIT_TEXT = (LOADED + 0xA000, LOADED + 0xA800)


@pytest.fixture
def kernel() -> DrawnKernel:
    return DrawnKernel()


def first_module(kernel: DrawnKernel) -> Object:
    return next(listed_modules(kernel.prog["modules"]))


def test_list_has_unformed_modules_too(kernel: DrawnKernel) -> None:
    with_mem(kernel)
    modules(kernel, {"name": b"ext4"}, {"name": b"coming\xff", "state": UNFORMED})
    found = listed_modules(kernel.prog["modules"])
    assert [module_name(module) for module in found] == ["ext4", "coming\\xff"]


def test_memory_by_kind_since_6_4(kernel: DrawnKernel) -> None:
    with_mem(kernel)
    modules(kernel, mem((LOADED, 0x2000), (LOADED + 0xA000, 0x800)))
    data = (LOADED - 0x10_0000, LOADED - 0x10_0000 + 0x1000)
    module = first_module(kernel)
    assert list(module_memory(module)) == [data, CORE_TEXT, INIT_TEXT]
    assert list(module_memory(module, text_only=True)) == [CORE_TEXT, INIT_TEXT]


def test_two_layouts_since_4_5(kernel: DrawnKernel) -> None:
    kernel.struct("module_layout", "void *base; unsigned int size; unsigned int text_size")
    declare_module(kernel, "struct module_layout core_layout; struct module_layout init_layout")
    modules(
        kernel,
        {
            "core_layout": {"base": LOADED, "size": 0x9000, "text_size": 0x2000},
            "init_layout": {"base": LOADED + 0xA000, "size": 0x1000, "text_size": 0x800},
        },
    )
    module = first_module(kernel)
    assert list(module_memory(module)) == [CORE, INIT]
    assert list(module_memory(module, text_only=True)) == [CORE_TEXT, INIT_TEXT]


def test_plain_members_before_4_5(kernel: DrawnKernel) -> None:
    declare_module(
        kernel,
        "void *module_core; unsigned int core_size; unsigned int core_text_size;"
        "void *module_init; unsigned int init_size; unsigned int init_text_size",
    )
    modules(
        kernel,
        {
            "module_core": LOADED,
            "core_size": 0x9000,
            "core_text_size": 0x2000,
            "module_init": LOADED + 0xA000,
            "init_size": 0x1000,
            "init_text_size": 0x800,
        },
    )
    module = first_module(kernel)
    assert list(module_memory(module)) == [CORE, INIT]
    assert list(module_memory(module, text_only=True)) == [CORE_TEXT, INIT_TEXT]


def test_module_that_is_not_in_the_dump(kernel: DrawnKernel) -> None:
    with_mem(kernel)
    module = Object(kernel.prog, "struct module *", kernel.nowhere)
    with pytest.raises(FaultError):
        module_name(module)
    with pytest.raises(FaultError):
        list(module_memory(module))
