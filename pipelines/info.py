"""``medae info``: a model's card."""

from __future__ import annotations

import re

from rich.markdown import Markdown

from medae.artifact import CARD, load_artifact
from medae.config import to_dict
from medae.tracking.models import resolve_model
from pipelines.console import Screen

FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)
"""For programs that index model cards, not for the screen."""


def run(model: str, as_json: bool) -> None:
    """Print the card; with ``as_json`` the whole record."""
    screen = Screen(as_json)
    artifact = load_artifact(resolve_model(model))
    card = (artifact.folder / CARD).read_text(encoding="utf-8")
    screen.results.print(Markdown(FRONT_MATTER.sub("", card)))
    screen.json({"stage": "info", "digest": artifact.digest, **to_dict(artifact.meta)})
