"""The tables of label curves in the docs say what the committed lines say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipelines.curve_cells import Design, part_of, read_rows
from pipelines.curve_config import read_curve
from pipelines.curve_results import evaluate
from pipelines.curve_words import markdown

ROOT = Path(__file__).parents[2]
MEASURED = (ROOT / "docs" / "reference" / "measured.md").read_text(encoding="utf-8")
COMMAND = re.compile(r"^medae curve (\w+) .*--results (benchmarks/results/\w+\.jsonl)", re.MULTILINE)


def sections() -> dict[str, str]:
    """The section of each curve whose table is in the docs, by its name."""
    parts = re.split(r"^## ", MEASURED, flags=re.MULTILINE)
    return {found[1]: part for part in parts if (found := COMMAND.search(part)) and "Dice [95 %]" in part}


def rows_of(table: str) -> list[dict[str, str]]:
    lines = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in table.splitlines()]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]


def key_of(row: dict[str, str]) -> tuple[str, str]:
    return row.get("labels", ""), row["arm"].split(" (")[0].strip("*")


def test_every_curve_of_the_docs_is_looked_at() -> None:
    assert {"hippocampus", "hippocampus_options", "hippocampus_decoders"} <= sections().keys()
    assert len(COMMAND.findall(MEASURED)) == len(sections())


@pytest.mark.parametrize("name", sections())
def test_the_table_is_that_of_the_lines(name: str) -> None:
    section = sections()[name]
    written = read_curve(name)
    found = COMMAND.search(section)
    assert found is not None
    measured = evaluate(Design(written, read_rows(ROOT / found[2])), part_of(written))
    table = re.search(r"(^\|.*Dice \[95 %\].*\n(?:\|.*\n)+)", section, re.MULTILINE)
    assert table is not None
    documented = rows_of(table[0])
    alone = "labels" not in documented[0]
    computed = {key_of(row | ({"labels": ""} if alone else {})): row for row in rows_of(markdown(measured))}
    assert [key_of(row) for row in documented] == list(computed), "all arms, in the order of the command"
    for row in documented:
        said = computed[key_of(row)]
        assert {column: said[column] for column in row} == row
