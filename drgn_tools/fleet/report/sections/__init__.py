# SPDX-License-Identifier: LGPL-2.1-or-later
"""The sections of the report: one file each, with its query and the columns of its table."""

from __future__ import annotations

from collections.abc import Mapping

from ..section import Section
from .failures import FAILURES
from .functions import FUNCTIONS
from .hosts import HOSTS
from .hung import HUNG
from .kernels import KERNELS
from .livepatch import LIVEPATCH
from .outliers import OUTLIERS
from .reasons import REASONS
from .stacks import STACKS
from .summary import SUMMARY

__all__ = ("SECTIONS",)

SECTIONS: Mapping[str, Section] = {
    section.name: section
    for section in (
        SUMMARY,
        KERNELS,
        HOSTS,
        FUNCTIONS,
        REASONS,
        STACKS,
        LIVEPATCH,
        HUNG,
        OUTLIERS,
        FAILURES,
    )
}
"""All sections by name, in the order of the report."""
