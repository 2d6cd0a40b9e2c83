"""The brain masks that medae made, for a detection or before: how much of them is doubtful, and what was flagged there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medae.data.case import Manifest
from medae.inference.native import labels_to_native
from medae.preprocessing.store import Store
from medae.report.html import Report
from pipelines.segmenting import read_native


@dataclass(frozen=True)
class Doubt:
    """Of a scan: how much of its mask the network was not sure of, what was flagged in all, and there."""

    case: str
    doubtful_ml: float
    flagged_ml: float
    flagged_in_doubt_ml: float


def doubts_of(test: Manifest, store: Store, maps: Path) -> list[Doubt]:
    """Of the scans of whose mask it is known what is doubtful. maps: where their maps were written."""
    found = []
    for case in test.cases:
        prepared = store[case.id].prepared()
        if prepared.doubtful is None:
            continue
        unsure = labels_to_native(prepared.doubtful.to(torch.int16), prepared) > 0
        flagged = read_native(maps / f"{case.id}_anomaly.nii.gz", "labels")[0] > 0
        parts = [unsure, flagged, unsure & flagged]
        found.append(Doubt(case.id, *(int(np.count_nonzero(part)) * prepared.native.voxel_ml for part in parts)))
    return found


def describe(report: Report, doubts: list[Doubt]) -> None:
    """A section of the report; nothing where of no mask it is known what is doubtful."""
    if not doubts:
        return
    flagged, there = (sum(getattr(doubt, name) for doubt in doubts) for name in ("flagged_ml", "flagged_in_doubt_ml"))
    share = f"{there / flagged:.0%} of what was flagged lies there" if flagged else "Nothing was flagged"
    report.section("Brain masks")
    report.text(
        "These masks were made by medae's own network, or given together with where they are doubtful. That is where the "
        f"network gives a voxel between 10 and 90 %, mostly along the edge. {share}. A finding in a doubtful rim may be "
        "skull that was taken for brain: look at the masks (CASE_mask.nii.gz among the maps)."
    )
    report.table(
        ["Case", "Doubtful (ml)", "Flagged (ml)", "Flagged where doubtful (ml)"],
        [[doubt.case, doubt.doubtful_ml, doubt.flagged_ml, doubt.flagged_in_doubt_ml] for doubt in doubts],
    )


def facts(doubts: list[Doubt]) -> dict[str, Any]:
    """For ``result.json``: by case."""
    return {doubt.case: {key: value for key, value in asdict(doubt).items() if key != "case"} for doubt in doubts}


def kept_doubts(said: Mapping[str, Mapping[str, float]]) -> list[Doubt]:
    """From what ``facts`` says."""
    return [Doubt(case, **values) for case, values in said.items()]
