"""What the commands share: their common options, and the line that comes first."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

RUNS = Path("runs")


def sets(example: str) -> Any:
    """The option ``--set`` with an example that its command takes."""
    return typer.Option("--set", metavar="KEY=VALUE", help=f"Change a configuration key, e.g. --set {example}.")


Out = Annotated[Path, typer.Option("--out", help="Folder that holds the runs.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, alone, on stdout.")]
Format = Annotated[
    str,
    typer.Option("--format", help="Layout: auto, msd, nnunet, bids, folder, table, dicom, manifest, phantom."),
]


def announce(command: str, what: str) -> None:
    """A line before the seconds that the imports take."""
    sys.stderr.write(f"medae {command}: {what}\n")
    sys.stderr.flush()
