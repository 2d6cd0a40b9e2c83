"""``medae info``: a model's card."""

from __future__ import annotations

from rich.markdown import Markdown

from medae.artifact import CARD, load_artifact
from medae.config import to_dict
from medae.tracking.models import resolve_model
from pipelines.console import Screen


def run(model: str, as_json: bool) -> None:
    """Print the card; with ``as_json`` the whole record."""
    screen = Screen(as_json)
    artifact = load_artifact(resolve_model(model))
    screen.results.print(Markdown((artifact.folder / CARD).read_text(encoding="utf-8")))
    screen.json({"stage": "info", "digest": artifact.digest, **to_dict(artifact.meta)})
