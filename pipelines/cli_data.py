"""The commands of ``medae data``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli_options import Commands, Json

app = typer.Typer(
    cls=Commands,
    help="Public data sets: which are known by name, and fetching one.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command("list")
def data_list(as_json: Json = False) -> None:
    """Show the public data sets that are known by name: what they are, size, licence and source."""
    from pipelines import get as program

    program.list_known(as_json)


@app.command("get")
def data_get(
    wanted: Annotated[
        str, typer.Argument(metavar="NAME|URL", help="A name from 'medae data list', or an archive's address.")
    ],
    to: Annotated[
        Path | None, typer.Option("--to", help="Folder for data sets (default: MEDAE_DATA, else the working folder).")
    ] = None,
    name: Annotated[
        str | None,
        typer.Option("--name", help="Name of the data set's folder in it (default: NAME, or the archive's name)."),
    ] = None,
    sha256: Annotated[
        str | None, typer.Option("--sha256", metavar="HEX", help="SHA-256 that the archive has to have.")
    ] = None,
    md5: Annotated[str | None, typer.Option("--md5", metavar="HEX", help="MD5 that the archive has to have.")] = None,
    keep_archive: Annotated[bool, typer.Option("--keep-archive", help="Keep the archive, beside the folder.")] = False,
    as_json: Json = False,
) -> None:
    """Fetch a public data set and unpack it; an interrupted download goes on with the same command."""
    from pipelines import get as program

    checksums = {"sha256": sha256, "md5": md5}
    program.run(wanted, to, name, checksums, keep_archive, as_json)
