"""Figures that are written without being drawn, where no test looks at them: drawing takes half the time of a small run."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from PIL import Image


def _blank() -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (4, 3), "white").save(data, format="PNG")
    return data.getvalue()


def leave_blank(patch: pytest.MonkeyPatch) -> None:
    """Figures are built and saved as ever, as a few white pixels."""
    blank = _blank()

    def save(_: Figure, place: Any, **__: Any) -> None:
        if hasattr(place, "write"):
            place.write(blank)
        else:
            Path(place).write_bytes(blank)

    patch.setattr(Figure, "savefig", save)
    patch.setattr(Figure, "tight_layout", lambda *_, **__: None)
    patch.setattr("medae.report.mosaic._place", lambda *_, **__: None)  # the panels of slices, outlines and all
