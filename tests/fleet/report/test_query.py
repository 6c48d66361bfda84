# SPDX-License-Identifier: LGPL-2.1-or-later
"""``--sql``: a query of the user, in every format, and its mistakes."""

from __future__ import annotations

import csv
import io
import json
import re
import time
from datetime import datetime

import pytest

pytest.importorskip("duckdb", reason="needs the extra drgn-tools[fleet]")
pytest.importorskip("pyarrow", reason="needs the extra drgn-tools[fleet]")
pytest.importorskip("distributed", reason="needs the extra drgn-tools[fleet]")

from drgn_tools.errors import UsageError
from drgn_tools.fleet.dataset.dataset import Dataset
from drgn_tools.fleet.dataset.views import VIEWS

from ...support.fleet_dataset import FLEET, day
from ...support.fleet_report import by, iso, sql


def test_sql_in_every_format(fleet: Dataset) -> None:
    query = (
        "SELECT host, count(*) AS n FROM audits WHERE host LIKE 'web%' GROUP BY host ORDER BY host"
    )
    groups = by([s for s in FLEET if (s["host"] or "").startswith("web")], "host")
    expected = [{"host": host, "n": len(sources)} for (host,), sources in sorted(groups.items())]
    found = sql(fleet, query)
    assert found["schema"] == "drgn-tools.fleet-sql/1"
    assert found["rows"] == expected
    assert [json.loads(line) for line in sql(fleet, query, "jsonl").splitlines()] == expected
    read = list(csv.DictReader(io.StringIO(sql(fleet, query, "csv"))))
    assert read == [{name: str(value) for name, value in row.items()} for row in expected]
    assert "web-0  2" in " ".join(sql(fleet, query, "table").split(" ")).replace("   ", "  ")


def test_sql_of_every_type(fleet: Dataset) -> None:
    query = """
        SELECT 1 AS a, 2 AS a, 'nan'::DOUBLE AS nan, 1.5::DECIMAL(5, 2) AS d, '\\x00'::BLOB AS b,
            time, tags, [NULL, 1] AS l, {'x': [time]} AS s, 18446744073709551615 AS u, true AS t,
            5 AS source, 6 AS first_seen, 'abc' AS last_seen, INTERVAL 1 DAY AS i
        FROM audits WHERE source = '/var/crash/web-0/vmcore'
    """
    [row] = sql(fleet, query)["rows"]
    when = iso(day(0))
    assert row == {
        "a": 1, "a_2": 2, "nan": None, "d": "1.50", "b": "00", "time": when,
        "tags": {"role": "web", "rack": "0"}, "l": [None, 1], "s": {"x": [when]}, "u": 2**64 - 1,
        "t": True, "source": 5, "first_seen": 6, "last_seen": "abc", "i": "1 day, 0:00:00",
    }  # fmt: skip
    for format in ("table", "csv", "github"):
        assert "18446744073709551615" in sql(fleet, query, format)


def test_a_table_of_sql_is_what_was_selected(fleet: Dataset) -> None:
    query = """
        SELECT 0.5::DOUBLE AS share, 0.25::DOUBLE AS unreliable_share, peak_memory_bytes, seconds,
            quarantined, count(*) OVER (), attempts, builds, [1, 2, 3, 4, 5] AS list
        FROM (SELECT *, 7 AS builds FROM audits WHERE host = 'sick' AND status = 'audited')
    """
    heading, row = sql(fleet, query, "table").splitlines()
    assert re.split("  +", heading) == [
        *("share", "unreliable_share", "peak_memory_bytes", "seconds", "quarantined"),
        *("count() OVER ()", "attempts", "builds", "list"),
    ]
    assert re.split("  +", row.strip()) == [
        *("0.5", "0.25", "4000000000", "99.5", "false", "1", "1", "7", "[1, 2, 3, 4, 5]")
    ]


@pytest.mark.parametrize("format", ["table", "csv", "github", "html"])
def test_a_name_of_a_column_is_escaped(fleet: Dataset, format: str) -> None:
    text = sql(fleet, 'SELECT 1 AS "a\n\x1b[31m<script>|"', format)
    assert "a\\x0a\\x1b[31m" in text
    assert all(c.isprintable() for c in text.replace("\n", ""))
    if format in ("github", "html"):
        assert "<script>" not in text


def test_times_with_a_zone_are_refused_in_one_sentence(fleet: Dataset) -> None:
    for query in ("SELECT current_timestamp", "SELECT [now()] AS x", "SELECT {'a': now()} AS x"):
        with pytest.raises(UsageError, match=r"now\(\)::TIMESTAMP"):
            sql(fleet, query)


def test_now_is_that_of_utc(fleet: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    [row] = sql(fleet, "SELECT now()::TIMESTAMP AS now")["rows"]
    now = datetime.fromisoformat(row["now"].removesuffix("Z") + "+00:00")
    assert abs(now.timestamp() - time.time()) < 600


def test_a_mistake_in_sql_says_what_there_is(fleet: Dataset) -> None:
    with pytest.raises(UsageError, match=r'Candidate bindings: .*"host"'):
        sql(fleet, "SELECT hst FROM audits")
    with pytest.raises(UsageError, match='Did you mean "audits"') as caught:
        sql(fleet, "FROM audit")
    assert f"(views: {', '.join(VIEWS)})" in str(caught.value)


@pytest.mark.parametrize(
    "query",
    [
        "SELEC 1",
        "SELECT nope FROM audits",
        "FROM nowhere",
        "SELECT 'x'::INTEGER",
        "",
        "SELECT 1; SELECT 2",
        "COPY (SELECT 1) TO 'x.csv'",
        "CREATE TABLE x AS SELECT 1",
        "DROP VIEW audits",
        "FROM read_text('/etc/hostname')",
        "ATTACH 'x.db'",
        "SET threads = 1",
    ],
)
def test_a_mistake_in_sql_is_one_line(fleet: Dataset, query: str) -> None:
    with pytest.raises(UsageError) as caught:
        sql(fleet, query)
    assert str(caught.value).startswith("--sql")
    assert "\n" not in str(caught.value)


def test_sql_cannot_write_into_the_dataset(fleet: Dataset) -> None:
    before = sorted(fleet.path.rglob("*"))
    with pytest.raises(UsageError):
        sql(fleet, f"COPY (SELECT 1) TO '{fleet.audits}/x.parquet'")
    assert sorted(fleet.path.rglob("*")) == before
