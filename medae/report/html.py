"""A report that is one HTML file: opens offline, loads nothing, reads in light and dark, prints.

Text is escaped. The content security policy lets the page's own script run and nothing else, and forbids every request.
Pictures are read when they are added, so that the report shows what was there, and are made smaller where they are large.
"""

from __future__ import annotations

import base64
import hashlib
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from PIL import Image

from medae.report.view import View
from medae.report.viewer import MOST, as_data, niivue

Tone = Literal["plain", "good", "caution"]
FigureKind = Literal["image", "chart"]

WIDEST = 1600
"""Pixels that a picture's width is brought down to."""
LARGE = 500_000
"""Bytes from which a PNG is embedded as a JPEG of high quality without chroma subsampling."""
PIXELS_PER_INCH = 100
"""Size on the page of an inch of the figure, so that letters have one size in all figures."""


@dataclass(frozen=True)
class Picture:
    """A data URI and the width on the page, in CSS pixels."""

    source: str
    width: int


@dataclass(frozen=True)
class Tile:
    """A small picture in a gallery. content: WebP. title and lines stand below it; a tone marks it."""

    content: bytes
    title: str
    lines: Sequence[str] = ()
    tone: Tone = "plain"

    @property
    def source(self) -> str:
        """A data URI."""
        return f"data:image/webp;base64,{base64.b64encode(self.content).decode()}"


@dataclass(frozen=True)
class Cell:
    """A table cell: shown text, value to sort by ("" sorts last), and whether it is a number and the column's best."""

    text: str
    sort: str
    number: bool
    best: bool = False


@dataclass
class _Section:
    anchor: str
    title: str
    blocks: list[dict[str, Any]] = field(default_factory=list)


class Report:
    """Built from top to bottom; every method returns the report, so that calls can be chained."""

    def __init__(self, title: str, subtitle: str = "", footer: str = "") -> None:
        self.title = title
        self.subtitle = subtitle
        self.footer = footer
        self._shows_scans = False
        self._cards: list[dict[str, str]] = []
        self._sections: list[_Section] = []

    def card(self, label: str, value: object, note: str = "", tone: Tone = "plain") -> Report:
        """A key number at the top of the page."""
        self._cards.append({"label": label, "value": format_value(value), "note": note, "tone": tone})
        return self

    def section(self, title: str) -> Report:
        """Start a section; it appears in the table of contents."""
        self._sections.append(_Section(f"section-{len(self._sections) + 1}", title))
        return self

    def text(self, text: str) -> Report:
        """Paragraphs, parted by blank lines; lines that start with ``- `` are a list; ``**bold**``; code in backticks."""
        return self._add(kind="text", html=to_html(text))

    def note(self, text: str, tone: Tone = "plain") -> Report:
        """A paragraph that stands out: what a reader must know before believing the numbers."""
        return self._add(kind="note", html=to_html(text), tone=tone)

    def table(
        self,
        headers: Sequence[str],
        rows: Sequence[Sequence[object]],
        caption: str = "",
        best: Mapping[str, Literal["max", "min"]] | None = None,
    ) -> Report:
        """A table that sorts by a click on a header.

        Cells may be text, numbers, booleans, or None for what does not exist. best: by header, whether the largest or
        smallest number of the column is marked; equal ones all are.
        """
        for row in rows:
            if len(row) != len(headers):
                raise ValueError(f"a row of {len(row)} cells under {len(headers)} headers")
        return self._add(kind="table", headers=list(headers), rows=_cells(headers, rows, best or {}), caption=caption)

    def figure(self, path: Path, caption: str, kind: FigureKind = "image") -> Report:
        """A PNG, read now. kind: a ``chart`` on white is inverted in dark mode, an ``image`` is left as it is."""
        return self._add(kind="figure", picture=embed(path), caption=caption, shade=kind)

    def gallery(self, tiles: Sequence[Tile]) -> Report:
        """Small pictures side by side."""
        return self._add(kind="gallery", tiles=list(tiles))

    def viewer(self, views: list[View] | list[dict[str, Any]]) -> Report:
        """Scans with their results, to be turned over and looked through; the first few of them. Needs WebGL 2.

        views: or their contents. Adds nothing where there is none, or no script to show them with.
        """
        if not views or niivue() is None:
            return self
        self._shows_scans = True
        return self._add(kind="viewer", data=Markup(as_data(views[:MOST])))

    def links(self, pages: Mapping[str, str]) -> Report:
        """Links to pages that lie beside this one: text -> file name."""
        return self._add(kind="links", pages=dict(pages))

    def details(self, summary: str, text: str) -> Report:
        """Preformatted text, such as a configuration, folded under its summary."""
        return self._add(kind="details", summary=summary, text=text)

    def write(self, path: Path) -> Path:
        """Write the page, making the folder; returns the path."""
        scripts = [_resource("report.js")]
        if self._shows_scans:
            scripts += [niivue() or "", _resource("viewer.js")]
        page = _template().render(
            title=self.title,
            subtitle=self.subtitle,
            footer=self.footer,
            cards=self._cards,
            sections=self._sections,
            style=Markup(_resource("report.css")),
            scripts=[{"text": Markup(text), "hash": _hash(text)} for text in scripts],
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page, encoding="utf-8")
        return path

    def _add(self, **block: Any) -> Report:
        if not self._sections:
            self.section("Summary")
        self._sections[-1].blocks.append(block)
        return self


def format_value(value: object) -> str:
    """As a reader wants it: three decimals, whole from 1000 on, three significant digits of the very small and very large, a
    dash for None and not-a-number, no folders."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        if 999.9995 <= abs(value) < 1e5:
            return f"{value:,.0f}"
        return f"{value:.3f}" if value == 0 or 1e-3 <= abs(value) < 1e3 else f"{value:.3g}"
    return value.name if isinstance(value, Path) else str(value)


def to_html(text: str) -> Markup:
    """The little markup that ``Report.text`` describes, everything else escaped."""
    blocks = []
    for block in re.split(r"\n\s*\n", text.strip()):
        lines = block.splitlines()
        if all(line.lstrip().startswith("- ") for line in lines):
            items = "".join(f"<li>{_inline(line.lstrip()[2:])}</li>" for line in lines)
            blocks.append(f"<ul>{items}</ul>")
        else:
            blocks.append(f"<p>{_inline(' '.join(lines))}</p>")
    return Markup("".join(blocks))


def embed(path: Path) -> Picture:
    """A PNG as a data URI, at most ``WIDEST`` pixels wide; its width on the page follows from the dots per inch."""
    with Image.open(path) as opened:
        picture, dots = opened.convert("RGB"), float(opened.info.get("dpi", (PIXELS_PER_INCH,))[0])
    width = round(picture.width / dots * PIXELS_PER_INCH)
    if picture.width > WIDEST:
        picture = picture.resize((WIDEST, round(picture.height * WIDEST / picture.width)), Image.Resampling.LANCZOS)
    kind, content = "png", _encoded(picture, format="PNG", optimize=True)
    if len(content) > LARGE:
        kind, content = "jpeg", _encoded(picture, format="JPEG", quality=90, subsampling=0, optimize=True)
    return Picture(f"data:image/{kind};base64,{base64.b64encode(content).decode()}", width)


def _hash(text: str) -> str:
    """Of a script, for the content security policy."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _encoded(picture: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, **options)
    return buffer.getvalue()


def _inline(text: str) -> str:
    escaped = str(escape(text))
    escaped = re.sub(r"`([^`]+)`", r"<code>\1</code>", escaped)
    return re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", escaped)


def _cells(headers: Sequence[str], rows: Sequence[Sequence[object]], best: Mapping[str, str]) -> list[list[Cell]]:
    columns = []
    for place, header in enumerate(headers):
        values = [row[place] for row in rows]
        numbers = [number for number in map(_number, values) if number is not None]
        winner = (max if best[header] == "max" else min)(numbers) if header in best and numbers else None
        columns.append([_cell(value, numeric=bool(numbers), winner=winner) for value in values])
    return [list(row) for row in zip(*columns, strict=True)]


def _cell(value: object, *, numeric: bool, winner: float | None) -> Cell:
    number = _number(value)
    text = format_value(value)
    missing = text == "–"
    sort = "" if missing else (repr(number) if number is not None else text)
    return Cell(text, sort, number is not None or (missing and numeric), number is not None and number == winner)


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value):
        return None
    return float(value)


def _resource(name: str) -> str:
    return resources.files("medae.report").joinpath("templates", name).read_text(encoding="utf-8").strip()


@cache
def _template() -> Any:
    loader = PackageLoader("medae.report", "templates")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("report.html.j2")
