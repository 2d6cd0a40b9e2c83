"""The brain masks that medae made for a detection: how much of them is doubtful, and what was flagged there."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medae.data.case import Manifest
from medae.data.reading import read_array
from medae.inference.brainmask import MaskNetwork, extraction_of
from medae.plan import SpacePlan
from medae.preprocessing.prepare import brain_mask_of
from medae.report.html import Report
from medae.volume import from_ras
from pipelines.console import Screen
from pipelines.segmenting import read_native


@dataclass(frozen=True)
class Doubt:
    """Of a scan: what the network is not sure of, inside and outside its mask; what was flagged, in all and there."""

    case: str
    doubtful_ml: float
    flagged_ml: float
    flagged_in_doubt_ml: float


def doubts_of(test: Manifest, space: SpacePlan, maps: Path, screen: Screen) -> list[Doubt]:
    """Of the scans whose mask was made; none if the plan's masks are given. maps: where those of the scans were written."""
    network = extraction_of(space)
    if not isinstance(network, MaskNetwork):
        return []
    made, found = [case for case in test.cases if brain_mask_of(case, space) is None], []
    with screen.progress("Looking at the brain masks") as report:
        for done, case in enumerate(made, start=1):
            scans = [read_array(test, case.images[name]) for name in space.channels if name in case.images]
            native = scans[0][1]
            doubtful = network.extract(
                torch.from_numpy(np.concatenate([array for array, _ in scans])), native.ras()[1]
            ).doubtful
            unsure = from_ras(doubtful.numpy(), native.matrix())[0]
            flagged = read_native(maps / f"{case.id}_anomaly.nii.gz", "labels")[0] > 0
            volumes = [int(np.count_nonzero(part)) * native.voxel_ml for part in (unsure, flagged, unsure & flagged)]
            found.append(Doubt(case.id, *volumes))
            report(done, len(made))
    return found


def describe(report: Report, doubts: list[Doubt]) -> None:
    """A section of the report; nothing where all masks were given."""
    if not doubts:
        return
    flagged, there = (sum(getattr(doubt, name) for doubt in doubts) for name in ("flagged_ml", "flagged_in_doubt_ml"))
    share = f"{there / flagged:.0%} of what was flagged lies there" if flagged else "Nothing was flagged"
    report.section("Brain masks")
    report.text(
        "The masks were made by medae's own network. Where it gives a voxel between 10 and 90 % (mostly along the edge) "
        f"they are doubtful: {share}. A finding in a doubtful rim may be skull that was taken for brain: look at the masks "
        "(maps/CASE_mask.nii.gz)."
    )
    report.table(
        ["Case", "Doubtful (ml)", "Flagged (ml)", "Flagged where doubtful (ml)"],
        [[doubt.case, doubt.doubtful_ml, doubt.flagged_ml, doubt.flagged_in_doubt_ml] for doubt in doubts],
    )


def facts(doubts: list[Doubt]) -> dict[str, Any]:
    """For ``result.json``: by case."""
    return {doubt.case: {key: value for key, value in asdict(doubt).items() if key != "case"} for doubt in doubts}
