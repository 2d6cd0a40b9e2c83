"""NiiVue inside a page: three planes and a rendering of a scan, its labels and maps, with sliders; no network.

The script is the one that nilearn ships (BSD-2-Clause); a page that shows scans holds it, 2.3 MB.
Source: NiiVue, https://niivue.com.
"""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import Any

from medae.report.view import View

MOST = 8
"""Scans that a page shows interactively."""


@cache
def niivue() -> str | None:
    """The script; None if this nilearn has none, and a page goes without the viewer."""
    place = resources.files("nilearn").joinpath("_assets", "js", "niivue.umd.js")
    try:
        text = place.read_text(encoding="utf-8")
    except OSError:
        return None
    return None if "</script" in text.lower() else text


def as_data(views: list[View] | list[dict[str, Any]]) -> str:
    """The scans as JSON that can stand inside a page."""
    content = [each.content() if isinstance(each, View) else each for each in views]
    return json.dumps(content).replace("<", "\\u003c")
