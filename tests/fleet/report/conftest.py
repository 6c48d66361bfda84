# SPDX-License-Identifier: LGPL-2.1-or-later
"""The dataset that the tests of the report read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from drgn_tools.fleet.dataset.dataset import Dataset


@pytest.fixture(scope="package")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    from ...support import fabricated  # with the extra
    from ...support.fleet_dataset import FLEET, write_dataset, write_orphan

    dataset = write_dataset(tmp_path_factory.mktemp("fleet") / "dataset", FLEET)
    write_orphan(dataset, fabricated.TASKS[:5])
    return dataset
