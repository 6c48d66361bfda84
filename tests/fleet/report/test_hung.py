# SPDX-License-Identifier: LGPL-2.1-or-later
"""The section about tasks that hang: a deadlock on one host of a fleet."""

from __future__ import annotations

import pytest

pytest.importorskip("duckdb", reason="needs the extra drgn-tools[fleet]")
pytest.importorskip("pyarrow", reason="needs the extra drgn-tools[fleet]")
pytest.importorskip("distributed", reason="needs the extra drgn-tools[fleet]")

from drgn_tools.fleet.dataset.dataset import Dataset

from ...support.fleet_dataset import FLEET, write_dataset
from ...support.fleet_report import COLUMNS, rows, sql


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_dataset(tmp_path_factory.mktemp("hung") / "dataset", FLEET)


def test_tasks_in_a_deadlock_by_what_they_wait_for(fleet: Dataset) -> None:
    found = rows(fleet, "hung")
    assert all(" ".join(row) == COLUMNS["hung"] for row in found)
    assert {row["hangup"] for row in found} == {"deadlock"}
    assert {row["waits_for"] for row in found} == {"mutex"}
    by_lock = {
        name: [row for row in found if row["what"] == name] for name in ("net_mutex", "rtnl_mutex")
    }
    assert sum(row["tasks"] for row in by_lock["net_mutex"]) == 2
    assert sum(row["tasks"] for row in by_lock["rtnl_mutex"]) == 1
    assert max(row["longest_s"] for row in by_lock["net_mutex"]) == 3601.0
    assert {host for row in found for host in row["on_hosts"]} == {"sick"}


def test_columns_of_tasks_and_audits(fleet: Dataset) -> None:
    query = "SELECT not_run_s, wait_name, holder_pid FROM tasks WHERE hangup = 'deadlock' ORDER BY 1 DESC"
    first, second, third = sql(fleet, query)["rows"]
    assert (first["not_run_s"], first["wait_name"]) == (3601.0, "net_mutex")
    # The two of the circle hold what the other waits for.
    assert first["holder_pid"] == third["holder_pid"] != second["holder_pid"]
    counts = sql(fleet, "SELECT host, hung, deadlocks FROM audits WHERE hung > 0")["rows"]
    assert counts == [{"host": "sick", "hung": 3, "deadlocks": 1}]
    # Who does not hang, or was not asked, has no value.
    (rest,) = sql(
        fleet, "SELECT count(*) AS n FROM tasks WHERE hangup IS NULL AND waits_for IS NOT NULL"
    )["rows"]
    assert rest["n"] == 0
