"""Reconstructions and maps that a detection keeps on disk until all is scored, and whether the disk has room for them."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medae.anomaly.detector import Scoring
from medae.anomaly.maps.registry import needs_model, parts_of
from medae.anomaly.maps.residual import ResidualConfig
from medae.config import digest
from medae.data.case import Manifest
from medae.models.networks import StoredConfig
from medae.preprocessing.estimate import free_bytes, readable, refuse_small_disk
from medae.preprocessing.store import Store
from pipelines.console import Screen, shown

HEADER = 128
"""Bytes of a file of an array beside its numbers."""


@contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """An empty folder inside that of a run, for as long as it is needed."""
    place = clear(folder)
    place.mkdir()
    try:
        yield place
    finally:
        clear(folder)


def clear(folder: Path) -> Path:
    """Remove what a scoring, or one that was killed, left in a run's folder; returns where it was."""
    place = folder / "scratch"
    shutil.rmtree(place, ignore_errors=True)
    return place


def check_disk(
    folder: Path, sides: dict[str, Manifest], store: Store, scoring: Scoring, network: StoredConfig, screen: Screen
) -> None:
    """Raises DataError, with both numbers, if the disk of a run's folder is certainly too small for what is kept while the
    scans of a detection (train, validation, test) are scored; warns if it may be."""
    clear(folder)
    needed = scratch_bytes(sides, store, scoring, network)
    refuse_small_disk(
        folder,
        "reconstructions and maps that are kept until all scans are scored",
        needed,
        "Free space, or choose a folder on a larger disk (--out).",
    )
    if (free := free_bytes(folder)) < needed:
        screen.warn(
            f"Scoring keeps at most {readable(needed)} in {shown(folder)} until it is done, where {readable(free)} are "
            "free: it may not be enough."
        )


def scratch_bytes(sides: dict[str, Manifest], store: Store, scoring: Scoring, network: StoredConfig) -> int:
    """The most that is kept at a time."""
    rows = scoring.rows()
    parts = [part for config in rows.values() for part in parts_of(config)]
    residuals = [part for part in parts if isinstance(part, ResidualConfig)]
    extra = {digest(part.draws): 2 for part in residuals if part.draws is not None}
    extra |= {digest(part.restore): 1 for part in residuals if part.restore is not None}
    asks = any(needs_model(config) for config in rows.values())
    learns = any(needs_model(part) and getattr(part, "place", None) is not None for part in parts)
    total = 0
    for side, manifest in sides.items():
        for case in manifest.cases:
            entry = store[case.id]
            channels = len(entry.present)
            if asks and (learns or side != "train"):
                kept = channels * (1 + sum(extra.values())) + getattr(network, "lesion_head", False)
                total += 4 * kept * math.prod(entry.shape) + (1 + len(extra)) * HEADER
            if side == "validation":
                total += (4 * len(rows) + 1) * math.prod(entry.native.shape) + (len(rows) + 1) * HEADER
    return total
