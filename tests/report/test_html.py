"""The HTML report: one file, escaped, offline."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medae.report.html import Report, embed, format_value, to_html

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Checks that tags nest, and collects what the tests look at."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style") and data.strip():
            self.words.append(data.strip())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.seen if name == tag]


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "secret_folder" / "figure.png"
    path.parent.mkdir()
    Image.fromarray(np.full((30, 40, 3), (10, 200, 30), dtype=np.uint8)).save(path, dpi=(160, 160))
    return path


def written(report: Report, tmp_path: Path) -> str:
    return report.write(tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_a_whole_report_nests_and_loads_nothing(tmp_path: Path, picture: Path) -> None:
    report = Report("Title", "Subtitle", "Footer").card("Dice", 0.91234, "60 cases", "good")
    report.section("One").text("Words.\n\n- a\n- b").note("Beware", tone="caution").figure(picture, "Caption")
    report.section("Two").table(["Case", "Dice"], [["a", 0.5], ["b", None]], caption="All").details("Config", "a: 1\n")
    text = written(report, tmp_path)
    page = Page(text)
    assert [link["href"] for link in page.all("a")] == ["#section-1", "#section-2"]
    assert {section["id"] for section in page.all("section")} == {"section-1", "section-2"}
    assert "0.912" in page.words
    assert page.all("link") == []
    assert len(page.all("script")) == 1
    assert "src" not in page.all("script")[0]
    sources = [image["src"] or "" for image in page.all("img")]
    assert all(source.startswith("data:image/") for source in sources)
    assert not re.search(r"(https?:)?//[a-z]", re.sub(r"base64,[A-Za-z0-9+/=]+", "", text))
    assert "secret_folder" not in text
    assert str(tmp_path) not in text


def test_the_policy_lets_only_our_script_run(tmp_path: Path) -> None:
    text = written(Report("T").text("x"), tmp_path)
    script = re.search(r"<script>(.*)</script>", text, re.DOTALL)
    policy = next(meta["content"] for meta in Page(text).all("meta") if "http-equiv" in meta)
    assert script is not None
    assert policy is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


def test_hostile_text_is_shown_not_run(tmp_path: Path, picture: Path) -> None:
    evil = '"><script>alert(1)</script><img src=x onerror=alert(1)>'
    report = Report(evil, evil, evil).card(evil, evil, evil).section(evil).text(evil + "\n\n- " + evil).note(evil)
    report.table([evil], [[evil]], caption=evil).figure(picture, evil).details(evil, evil)
    page = Page(written(report, tmp_path))
    assert len(page.all("script")) == 1
    assert len(page.all("img")) == 1
    assert page.all("img")[0]["alt"] == evil
    assert page.all("td")[0]["data-sort"] == evil


def test_little_markup() -> None:
    assert to_html("one\ntwo\n\n- **a** `b`\n- c") == (
        "<p>one two</p><ul><li><strong>a</strong> <code>b</code></li><li>c</li></ul>"
    )
    assert to_html("a < b & c") == "<p>a &lt; b &amp; c</p>"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "–"),
        (float("nan"), "–"),
        (0.0, "0.000"),
        (0.12345, "0.123"),
        (0.00012345, "0.000123"),
        (999.9999, "1,000"),
        (1238.6, "1,239"),
        (99999.0, "99,999"),
        (123456.7, "1.23e+05"),
        (7, "7"),
        (True, "yes"),
        (Path("/home/someone/scan.nii.gz"), "scan.nii.gz"),
        ("text", "text"),
    ],
)
def test_values_as_a_reader_wants_them(value: object, expected: str) -> None:
    assert format_value(value) == expected


def test_tables_sort_by_value_and_mark_the_best(tmp_path: Path) -> None:
    rows: list[list[object]] = [["a", 0.5, 9], ["b", None, 7], ["c", 0.12345, 7]]
    page = Page(written(Report("T").table(["Case", "Dice", "HD95"], rows, best={"Dice": "max", "HD95": "min"}), tmp_path))
    cells = page.all("td")
    assert [cell["data-sort"] for cell in cells] == ["a", "0.5", "9.0", "b", "", "7.0", "c", "0.12345", "7.0"]
    best = [place for place, cell in enumerate(cells) if "best" in (cell["class"] or "")]
    assert best == [1, 5, 8]
    assert "number" in (cells[4]["class"] or "")  # a missing number stays in line with the others
    assert "number" not in (cells[0]["class"] or "")


def test_a_row_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="2 headers"):
        Report("T").table(["a", "b"], [[1]])


def test_pictures_keep_their_pixels_and_size(picture: Path) -> None:
    found = embed(picture)
    assert found.width == 25  # 40 pixels at 160 dots an inch
    kind, content = found.source.split(";base64,")
    assert kind == "data:image/png"
    with Image.open(io.BytesIO(base64.b64decode(content))) as decoded:
        assert decoded.size == (40, 30)
        assert decoded.getpixel((5, 5)) == (10, 200, 30)


def test_large_pictures_are_made_smaller_and_keep_their_colours(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 60, (1200, 2400, 3), dtype=np.uint8)
    noise[:200, :200] = (52, 211, 153)  # a rare colour, as of a legend
    path = tmp_path / "large.png"
    Image.fromarray(noise).save(path)
    content = embed(path).source.split(";base64,")[1]
    with Image.open(io.BytesIO(base64.b64decode(content))) as decoded:
        assert decoded.size == (1600, 800)
        rare = decoded.convert("RGB").getpixel((60, 60))
    assert isinstance(rare, tuple)
    assert np.abs(np.array(rare) - (52, 211, 153)).max() <= 4
    assert len(content) < path.stat().st_size / 3


def test_the_picture_is_read_when_added(tmp_path: Path, picture: Path) -> None:
    report = Report("T").figure(picture, "c")
    picture.unlink()
    assert "data:image/png" in written(report, tmp_path)
