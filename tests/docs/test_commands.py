"""Every command in the README and the documentation works, every YAML fits, every program code runs."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys

import pytest
import yaml
from docpages import PAGES, ROOT, SHELLS, Block, blocks
from docshell import CHECKS, Shell, program
from docworld import World, enter
from pictures import leave_blank

from medae.config import validate
from pipelines.configs import find_config, merge
from pipelines.stage import program_of

RUNNABLE = (*SHELLS, "python")
WITH_CODE = [page for page in PAGES if any(block.language in RUNNABLE or block.note for block in blocks(page))]
RUN_SOMEWHERE = {
    tuple(words)
    for page in PAGES
    for block in blocks(page)
    if block.language in SHELLS and not block.note
    for words in block.commands()
}


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_commands_of_a_page_work_one_after_another(page, world: World, tmp_path, monkeypatch):
    folder = tmp_path / "work"
    shutil.copytree(world.work, folder)
    enter(monkeypatch, world, folder)
    if page.name != "README.md":
        leave_blank(monkeypatch)
    run_id = yaml.safe_load((world.stage("pretrain") / "run.json").read_text())["run_id"]
    shell = Shell(monkeypatch, {"RUN_ID": run_id}, world.data / "hippocampus")
    for block in blocks(page):
        if block.note.startswith("file "):
            path = folder / os.path.expandvars(block.note.removeprefix("file "))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text)
        elif block.note.startswith("over "):
            fits(block)
        elif block.note == "elsewhere":
            assert set(map(tuple, block.commands())) <= RUN_SOMEWHERE, f"{block.place}: no other page runs this"
        elif block.language == "python":
            subprocess.run([sys.executable, "-c", block.text], check=True)
        elif block.language in SHELLS:
            hidden = [shlex.split(block.note.removeprefix("run "))] if block.note.startswith("run ") else []
            for words in [*hidden, *block.commands()]:
                try:
                    shell.run(words, fails=block.note == "fails")
                except (AssertionError, KeyError) as error:
                    raise AssertionError(f"{block.place}: {' '.join(words)}: {error!r}") from None


def fits(block: Block) -> None:
    """A YAML block's keys go over those of the configuration that its note names."""
    name = block.note.removeprefix("over ")
    kind, path = name.split("/")[0], find_config(name, "")
    content = merge(yaml.safe_load(path.read_text()), yaml.safe_load(block.text))
    validate(program_of(kind).Config, content, where=block.place)


def test_every_yaml_block_is_a_file_or_goes_over_a_configuration():
    loose = [block.place for page in PAGES for block in blocks(page) if block.language == "yaml" and not block.note]
    assert loose == []


def test_every_block_says_what_language_it_is_in():
    languages = {block.language for page in PAGES for block in blocks(page)}
    assert languages <= {*RUNNABLE, "yaml", "json", "text", "tsv", "csv"}


def test_few_programs_are_named_that_are_not_run():
    named = {program(w[0]) for page in PAGES for b in blocks(page) if b.language in SHELLS for w in b.commands()}
    assert set(CHECKS) <= named, "a program that no page names needs no check"
    assert len(CHECKS) <= 12


def test_the_notes_for_tests_are_understood():
    notes = {block.note.split()[0] for page in PAGES for block in blocks(page) if block.note}
    assert notes <= {"file", "over", "fails", "run", "elsewhere"}
