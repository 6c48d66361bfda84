# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every JSON document that a command prints has the fields of its schema, and no other."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import drgn_tools
from drgn_tools.commands.main import main

from ..conftest import lab_file, lab_livepatch
from ..lab.variants import variants_of

PACKAGE = Path(drgn_tools.__file__).parent
GOLDEN = Path(__file__).parents[1] / "golden"

EVERYTHING = (
    "tasks",
    "tasks --frames",
    "stack --all",
    "stack --all --raw",
    "regs",
    "groups",
    "hung --all",
    "livepatch --all",
    "livepatch --all --function vfs_read --function nonsense --function xfs:xfs_sync",
)
"""Command lines that together print every kind of record."""


def file_of(schema: str) -> Path:
    """``drgn_tools/schemas/tasks-1.json`` of ``drgn-tools.tasks/1``."""
    return PACKAGE / "schemas" / f"{schema.partition('.')[2].replace('/', '-')}.json"


def strict(schema: Any) -> Any:
    """The schema without room for fields that it does not name."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: strict(value) for name, value in schema.items()}
    if "properties" in found:
        found["additionalProperties"] = False
    return found


def faults(document: Any, part: str = "") -> list[str]:
    """What is wrong with a document by its schema, taken strictly.

    :param part: Name of the list of the document whose items *document* is one of, for jsonl
    """
    name = document["schema"] if not part else part.partition(":")[0]
    schema = strict(json.loads(file_of(name).read_text()))
    if part:
        schema = {**schema["properties"][part.partition(":")[2]]["items"], "$defs": schema["$defs"]}
    validator = jsonschema.Draft202012Validator(schema)
    return [
        f"{error.json_path}: {error.message[:200]}" for error in validator.iter_errors(document)
    ]


def golden_documents() -> Iterator[tuple[str, Any]]:
    for path in sorted(GOLDEN.rglob("*--format_json*")):
        text = path.read_text().partition("\n")[2].partition("[stderr]\n")[0]
        if "jsonl" not in path.name and text:
            yield path.relative_to(GOLDEN).as_posix(), json.loads(text)


GOLDEN_DOCUMENTS = dict(golden_documents())


# ---- what is printed


@pytest.mark.parametrize("name", GOLDEN_DOCUMENTS)
def test_golden_documents(name: str) -> None:
    assert faults(GOLDEN_DOCUMENTS[name]) == []


@pytest.mark.parametrize("line", EVERYTHING)
def test_the_demo_dump(line: str, demo_core: str, capsys: pytest.CaptureFixture[str]) -> None:
    main([*line.split(), "-c", demo_core, "--format", "json", "-q"])
    assert faults(json.loads(capsys.readouterr().out)) == []


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("tasks --frames", "drgn-tools.tasks/1:tasks"),
        ("stack --all", "drgn-tools.stack/1:tasks"),
        ("stack --all --raw --max-tasks 5", "drgn-tools.raw/1:words"),
        ("regs", "drgn-tools.regs/1:regs"),
        ("groups", "drgn-tools.groups/1:groups"),
        ("livepatch --all", "drgn-tools.livepatch/1:tasks"),
    ],
)
def test_a_line_of_jsonl_is_an_item_of_the_document(
    line: str, part: str, demo_core: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main([*line.split(), "-c", demo_core, "--format", "jsonl", "-q"])
    lines = capsys.readouterr().out.splitlines()
    assert lines
    assert [fault for text in lines for fault in faults(json.loads(text), part)] == []


@pytest.mark.lab
@pytest.mark.parametrize("variant", ["fp-lsb", "fp-v3", "debian"])
@pytest.mark.parametrize("line", EVERYTHING)
def test_lab_dumps(variant: str, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    core = str(lab_file(f"{variant}.core"))
    main([*line.split(), "-c", core, "--format", "json", "-q"])
    assert faults(json.loads(capsys.readouterr().out)) == []


@pytest.mark.lab
@pytest.mark.parametrize(
    "variant",
    [variant for variant in variants_of("livepatch") if not variant.live],
    ids=lambda variant: variant.name,
)
def test_dumps_with_live_patches(variant: Any, capsys: pytest.CaptureFixture[str]) -> None:
    main(["livepatch", "--all", "-c", str(lab_livepatch(variant).core), "--format", "json", "-q"])
    document = json.loads(capsys.readouterr().out)
    assert document["patches"]
    assert faults(document) == []


# ---- the schemas themselves


def test_every_name_of_a_schema_in_the_code_has_a_file_and_the_other_way_round() -> None:
    names = {
        name
        for path in PACKAGE.rglob("*.py")
        for name in re.findall(r'"(drgn-tools\.[a-z-]+/[0-9]+)"', path.read_text())
    }
    assert len(names) >= 8
    assert {file_of(name) for name in names} == set((PACKAGE / "schemas").iterdir())


def test_the_schemas_are_schemas_and_leave_room_for_later_fields() -> None:
    for path in (PACKAGE / "schemas").iterdir():
        schema = json.loads(path.read_text())
        jsonschema.Draft202012Validator.check_schema(schema)
        assert '"additionalProperties": false' not in path.read_text()
        assert file_of(schema["title"]) == path


def test_a_field_more_or_less_or_of_another_form_is_found() -> None:
    good = GOLDEN_DOCUMENTS["demo/tasks_--frames_--format_json.txt"]
    assert faults(good) == []
    for change, said in (
        (lambda d: d.update(more=1), "$: Additional properties"),
        (lambda d: d["kernel"].update(more=1), "$.kernel: Additional properties"),
        (lambda d: d["tasks"][3].update(more=1), "$.tasks[3]: Additional properties"),
        (lambda d: d["tasks"][3]["frames"][0].update(more=1), "$.tasks[3].frames[0]: Add"),
        (lambda d: d["tasks"][3].pop("depth"), "$.tasks[3]: 'depth' is a required"),
        (lambda d: d["tasks"][3].update(task=1), "$.tasks[3].task: 1 is not of type"),
        (lambda d: d["tasks"][3].update(task="123"), "$.tasks[3].task: '123' does not match"),
        (lambda d: d["tasks"][3].update(verdict="maybe"), "$.tasks[3].verdict: 'maybe'"),
        (lambda d: d.pop("problems"), "$: 'problems' is a required"),
    ):
        bad = copy.deepcopy(good)
        change(bad)
        (fault,) = faults(bad)
        assert fault.startswith(said)
