"""What the commands share: how they are listed, their common options, and the line that comes first."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

RUNS = Path("runs")


class Commands(TyperGroup):
    """Commands that are listed below one another, each with the whole of its first sentence (Click's own list cuts it)."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, self.commands[name].get_short_help_str(limit=1000)) for name in self.commands])


def sets(example: str) -> Any:
    """The option ``--set`` with an example that its command takes."""
    return typer.Option("--set", metavar="KEY=VALUE", help=f"Change a configuration key, e.g. --set {example}.")


Out = Annotated[Path, typer.Option("--out", help="Folder that holds the runs.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, alone, on stdout.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
Format = Annotated[
    str,
    typer.Option("--format", help="Layout: auto, msd, nnunet, bids, folder, table, dicom, manifest, phantom."),
]


def announce(command: str, what: str) -> None:
    """A line before the seconds that the imports take."""
    sys.stderr.write(f"medae {command}: {what}\n")
    sys.stderr.flush()
