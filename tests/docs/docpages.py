"""Pages of the documentation, their fenced blocks, and the notes for the tests that stand above some blocks.

A note is a comment that no renderer shows. Above a YAML block, ``<!-- test: file plans/a.yaml -->`` says that the block is
this file, ``over finetune/phantoms`` that its keys go over those of that shipped configuration. Above commands, ``fails``
says that each of them ends with a user's error, ``run medae …`` that another command comes first, given on another page,
``elsewhere`` that each of them is run on another page and need not be run twice.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SHELLS = ("sh", "powershell")
FENCE = re.compile(r"^(?:<!-- test: (?P<note>.+?) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block. line: of its first line in the page, from 1."""

    page: Path
    line: int
    language: str
    note: str
    text: str

    @property
    def place(self) -> str:
        """For messages."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    def commands(self) -> Iterator[list[str]]:
        """The words of each command, comments left out and continued lines joined. A line that is a comment is none."""
        text = self.text.replace("`\n", " ") if self.language == "powershell" else self.text.replace("\\\n", " ")
        for line in text.splitlines():
            words = shlex.split(line.replace("\\", "/") if self.language == "powershell" else line, comments=True)
            if words:
                yield words


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page. Raises ValueError for a fence or a note that is not understood."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in FENCE.finditer(text):
        line = text[: match.start("text")].count("\n") + 1
        found.append(Block(page, line, match["language"], match["note"] or "", match["text"]))
    fences, notes = len(re.findall(r"^```", text, re.MULTILINE)), text.count("<!-- test:")
    if fences != 2 * len(found) or notes != sum(bool(block.note) for block in found):
        raise ValueError(f"{page.relative_to(ROOT)}: {fences} fences and {notes} notes for {len(found)} blocks")
    return found


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def table(page: Path, column: str, heading: str = "", part: int = 0) -> list[str]:
    """The codes in the first column of a page's tables that have a column of this name, below a heading.

    part: which of them, from 0. Without a heading, all tables of the page.
    """
    text = page.read_text(encoding="utf-8")
    if heading:
        text = re.split(r"^## ", text.partition(f"## {heading}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    found = [rows for rows in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE) if column in rows.partition("\n")[0]]
    chosen = found[part : part + 1] if heading else found
    firsts = [row.split(" | ")[0] for rows in chosen for row in rows.splitlines()[2:]]
    return [code for first in firsts for code in re.findall(r"`([^`]+)`", first)]
