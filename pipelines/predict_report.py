"""The page of a prediction: every scan in a table, the ones to look at first as pictures, a few to be looked through."""

from __future__ import annotations

import shutil
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

from medae.artifact import Artifact
from medae.export.at_work import Layer
from medae.export.beside import written_beside
from medae.modelcard import figures_of
from medae.report.html import Report, Tile, format_value
from medae.report.view import Backdrop, View, drawn_over
from medae.report.viewer import MOST
from medae.volume import NativeGrid, in_ml
from pipelines.files import read_json, write_json

RANKS = ".ranks.json"
TILES = 60
"""Pictures on the page, at most."""

FEW = 20
"""Calibration scans below which they are counted: a share of them in percent would look more exact than it is."""

TITLES = {"": "labels", "heatmap": "heat map", "anomaly": "flagged", "disagreement": "disagreement"}
"""Of the layers that are drawn."""


class Pictures:
    """Tiles of all scans and the contents of a few views, in a folder, so that a run that goes on has those of before."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, name: str, rank: float, backdrop: Backdrop, native: NativeGrid, layers: Sequence[Layer]) -> None:
        """Draw a scan. rank: the highest are looked at first."""
        shown = [layer for layer in layers if layer.name in TITLES]
        overlays = [drawn_over(backdrop, native, TITLES[each.name], each.array, each.labels, each.window) for each in shown]
        view = View(name, backdrop, overlays)
        with written_beside(self.folder / f"{name}.webp") as new:
            new.write_bytes(view.tile())
        ranks = self._ranks()
        ranks.pop(name, None)
        if len(ranks) >= MOST and rank <= sorted(ranks.values())[-MOST]:
            (self.folder / f"{name}.json").unlink(missing_ok=True)
            return
        write_json(self.folder / f"{name}.json", view.content())
        ranks[name] = rank
        for last in sorted(ranks, key=lambda each: ranks[each])[: max(0, len(ranks) - MOST)]:
            ranks.pop(last)
            (self.folder / f"{last}.json").unlink(missing_ok=True)
        write_json(self.folder / RANKS, ranks)

    def keep(self, names: Container[str]) -> None:
        """Let go of the pictures of all other scans, and of what a run that was killed left half drawn."""
        for path in self.folder.glob("*"):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name != RANKS and path.stem not in names:
                path.unlink(missing_ok=True)
        if ranks := self._ranks():
            write_json(self.folder / RANKS, {name: rank for name, rank in ranks.items() if name in names})

    def tile(self, name: str) -> bytes | None:
        """The picture of a scan, if it was drawn."""
        path = self.folder / f"{name}.webp"
        return path.read_bytes() if path.is_file() else None

    def views(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """Of these scans the contents of those that are kept, in this order."""
        paths = [self.folder / f"{name}.json" for name in names]
        return [content for path in paths if (content := _read(path))][:MOST]

    def _ranks(self) -> dict[str, float]:
        """Of the views that are kept."""
        return _read(self.folder / RANKS)


def _read(path: Path) -> dict[str, Any]:
    """The JSON of a file; nothing where it is not there, or damaged."""
    try:
        return read_json(path)
    except (OSError, ValueError):
        return {}


def rank_of(case: Mapping[str, Any]) -> float:
    """How soon a scan should be looked at: by what is to be said of it, then by its score or by how far models disagree."""
    unsure = case.get("score", case.get("disagreement_mean")) or 0.0
    return 1e6 * len(case.get("remarks", ())) + float(unsure)


def make_report(
    artifacts: Sequence[Artifact], cases: Mapping[str, Mapping[str, Any]], failed: Mapping[str, str], pictures: Pictures
) -> Report:
    """The page."""
    first = artifacts[0].meta
    detects = first.kind == "detector"
    normals = len((first.calibration or {}).get("normal_scores", ()))
    remarked = sum(bool(case.get("remarks")) for case in cases.values())
    report = Report("Anomalies" if detects else f"Segmentation: {first.target}", "What the model gave for new scans")
    report.card("Scans", len(cases)).card("With remarks", remarked, tone="caution" if remarked else "plain")
    report.card("Failed", len(failed), tone="caution" if failed else "plain")
    report.section("Scans").text(
        "Research only, and no diagnosis. **Remarks** say where a scan is unlike those that the model was trained on: look "
        "at these first. Click on a header to sort."
    )
    columns, rows = _table(cases, detects, normals)
    report.table(columns, rows)
    if failed:
        report.section("Failed").table(["Scan", "Why"], [[name, reason] for name, reason in failed.items()])
    order = sorted(cases, key=lambda name: (-rank_of(cases[name]), name))
    views = pictures.views(order)
    for view in views:
        view["lines"] = [*_lines(cases[view["name"]], detects, normals), *cases[view["name"]].get("remarks", ())]
    if views:
        report.section("To look through").text(
            "Drag in a plane to move the cross, scroll to leaf through, use the right button for contrast. Radiological "
            "convention: the patient's right is on the left. The page has two million voxels a scan; the files have all."
        )
        report.viewer(views)
    tiles = [(name, pictures.tile(name)) for name in order[:TILES]]
    report.section("To look at").text(
        f"The first {min(TILES, len(order))} of {len(order)} scans: those with remarks, then those with the highest "
        f"{'score' if detects else 'disagreement'}. Axial, coronal and sagittal through the most of what was found."
    )
    report.gallery(
        [
            Tile(tile, name, _lines(cases[name], detects, normals), "caution" if cases[name].get("remarks") else "plain")
            for name, tile in tiles
            if tile is not None
        ]
    )
    report.section("The model").table(
        ["Fact", "Value"],
        [
            ["Kind", first.kind],
            ["Digest", ", ".join(each.digest[:12] for each in artifacts)],
            ["Networks", str(len(artifacts))],
            *([key, value] for key, value in (first.domain.in_words() if first.domain else {}).items()),
            *([key, format_value(value)] for key, value in figures_of(first.metrics).items() if value is not None),
        ],
        caption="What the training scans were like, and what the model reached on its own test scans; medae info has more.",
    )
    return report


def _table(cases: Mapping[str, Mapping[str, Any]], detects: bool, normals: int = 0) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows. normals: how many normal scans a detector was calibrated on; 0 where that is not known."""
    if detects:
        doubted = any("doubtful_ml" in case for case in cases.values())
        own = ["Scan", "Score", "Among normals", "Flagged (ml)", "Findings"]
        columns = [*own, *(["Flagged where the mask is doubtful (ml)"] if doubted else []), "Remarks"]
        rows = [
            [
                name,
                case.get("score"),
                _among(case.get("percentile_among_normals"), normals),
                case.get("flagged_ml"),
                len(case.get("findings", ())),
                *([case.get("flagged_in_doubt_ml")] if doubted else []),
                " ".join(case.get("remarks", ())),
            ]
            for name, case in cases.items()
        ]
        return columns, rows
    labels = list(dict.fromkeys(label for case in cases.values() for label in case.get("volume_ml", {})))
    several = any("disagreement_mean" in case for case in cases.values())
    columns = ["Scan", *(f"{label} (ml)" for label in labels), *(["Disagreement"] if several else []), "Remarks"]
    rows = [
        [
            name,
            *(case.get("volume_ml", {}).get(label) for label in labels),
            *([case.get("disagreement_mean")] if several else []),
            " ".join(case.get("remarks", ())),
        ]
        for name, case in cases.items()
    ]
    return columns, rows


def _among(share: float | None, normals: int) -> float | str | None:
    """The share of normal scans that score no higher: such as ``2 of 3``, as a number where they are many."""
    return share if share is None or not 0 < normals < FEW else f"{round(share * normals)} of {normals}"


def _lines(case: Mapping[str, Any], detects: bool, normals: int = 0) -> list[str]:
    """What is said beside a scan's picture. normals: as of ``_table``."""
    if detects:
        among = _among(case.get("percentile_among_normals"), normals)
        above = "" if among is None else f", above {among if isinstance(among, str) else f'{among:.0%} of'} normal scans"
        return [
            f"score {case['score']:.3g}{above}",
            f"flagged {in_ml(case['flagged_ml'])} in {len(case['findings'])} pieces",
            *([f"{in_ml(case['flagged_in_doubt_ml'])} of it where the mask is doubtful"] if "doubtful_ml" in case else []),
        ]
    return [f"{label}: {in_ml(volume)}" for label, volume in case.get("volume_ml", {}).items()][:6]
