"""Links lead somewhere; commands, options, keys and configurations that the text names exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from docpages import PAGES, ROOT, prose

from pipelines.cli import app
from pipelines.configs import find_config
from pipelines.stage import KINDS

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")  # of pictures too
CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
FILES = (".yaml", ".json", ".md", ".html", ".py", ".txt", ".db", ".toml")
CONFIGURATION = ROOT / "docs" / "reference" / "configuration.md"
IDS = {"ids": lambda page: str(page.relative_to(ROOT))}


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, **IDS)
def test_links_lead_somewhere(page):
    for target in LINK.findall(prose(page)):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


def known_keys() -> Iterator[str]:
    """Every key, with the dots that lead to it, from the page of all keys."""
    path = ""
    for line in CONFIGURATION.read_text(encoding="utf-8").splitlines():
        if heading := re.match(r"#{2,3} (?:`([\w.]+)`)?", line):
            path = f"{heading[1]}." if heading[1] else ""
            yield from (f"{path}kind", f"{path}format") if path else ()
        elif row := re.match(r"\| `(\w+)` \|", line):
            yield path + row[1]


@pytest.mark.parametrize("page", PAGES, **IDS)
def test_keys_commands_and_options_in_the_text_exist(page):
    keys, tops = set(known_keys()), {key.partition(".")[0] for key in known_keys()}
    group = typer.main.get_command(app)
    commands = [
        inner for command in group.commands.values() for inner in getattr(command, "commands", {"": command}).values()
    ]
    parameters = [parameter for command in commands for parameter in command.params]
    options = {"--help"} | {option for p in parameters for option in (*p.opts, *p.secondary_opts)}
    for code in CODE.findall(prose(page)):
        key = code.partition(":")[0]
        if re.fullmatch(r"[a-z_]+(\.[a-z_]+)+", key) and key.partition(".")[0] in tops and not key.endswith(FILES):
            assert key in keys, f"there is no key {key}"
        words = code.split()
        if words[0] == "medae" and len(words) > 1 and words[1].islower() and not words[1].startswith("-"):
            command = group.commands.get(words[1])
            assert command is not None, f"there is no command {words[1]}"
            assert len(words) < 3 or words[2] in getattr(command, "commands", words), f"there is no command {words[2]}"
        if words[0].startswith("--"):
            assert words[0].partition("=")[0] in options, f"there is no option {words[0]}"


@pytest.mark.parametrize("page", PAGES, **IDS)
def test_configurations_in_the_text_are_shipped(page):
    for code in CODE.findall(prose(page)):
        if re.fullmatch(rf"(configs/)?({'|'.join(KINDS)}|pipelines)/\w+(\.yaml)?", code):
            assert find_config(code, "").is_file()


@pytest.mark.parametrize("page", PAGES, **IDS)
def test_no_command_hides_from_the_tests_outside_of_a_fence(page):
    assert re.findall(r"^(?: {4,}|\t)(?:\$ )?medae .*", prose(page), re.MULTILINE) == []


def test_every_page_is_in_the_index():
    index = ROOT / "docs" / "README.md"
    linked = {
        (index.parent / target.partition("#")[0]).resolve() for target in LINK.findall(index.read_text(encoding="utf-8"))
    }
    pages = {page for page in PAGES if page.is_relative_to(index.parent) and page != index}
    unlinked = {page for page in pages if not linked & {page, page.with_name("README.md")}}
    assert unlinked == set()


@pytest.mark.parametrize("page", PAGES, **IDS)
def test_tests_that_the_text_names_exist(page):
    for path, name in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", prose(page)):
        assert f"\ndef {name}(" in (ROOT / path).read_text(encoding="utf-8"), f"{path}::{name}"
