"""The command ``medae export``."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli_options import Json, announce


class ExportChoice(Enum):
    """What ``medae export --to`` takes."""

    bundle = "bundle"
    onnx = "onnx"
    torch_export = "torch-export"


def export(
    model: Annotated[str, typer.Argument(help="A model folder, runs:/… or models:/name@alias.")],
    out: Annotated[Path, typer.Argument(help="A new folder for a bundle, a new .onnx or .pt2 file for the others.")],
    to: Annotated[
        ExportChoice,
        typer.Option("--to", help="A MONAI bundle (from scan to label map), or the network alone: ONNX, torch.export."),
    ],
    as_json: Json = False,
) -> None:
    """Export a model to programs that run it without medae."""
    announce("export", model)
    from pipelines import export as program

    program.run(model, out, to.value, as_json)
