"""The command ``medae curve``."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from medae.errors import ConfigError
from pipelines.cli_options import RUNS, Format, Json, Out, announce, sets


class ExecutorChoice(Enum):
    """What ``medae curve --executor`` takes."""

    processes = "processes"
    slurm = "slurm"


def curve(
    config: Annotated[
        str, typer.Argument(metavar="CURVE", help="A YAML file, a shipped curve, or with --budget the folder of a data set.")
    ],
    budget: Annotated[
        str | None, typer.Option("--budget", help="Plan a curve of the data set that fits this time: 90m, 2h, 1d.")
    ] = None,
    format: Format = "auto",
    arms: Annotated[str | None, typer.Option("--arms", help="Only these, such as scratch,masked.")] = None,
    labelled: Annotated[str | None, typer.Option("--labelled", help="Only these numbers of labels, such as 1,4.")] = None,
    draws: Annotated[str | None, typer.Option("--draws", help="Only these draws of labelled cases, such as 0,1.")] = None,
    executor: Annotated[
        ExecutorChoice, typer.Option("--executor", help="Where they run: processes here, or jobs of Slurm through submitit.")
    ] = ExecutorChoice.processes,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Processes, or Slurm jobs, that train side by side.")] = 1,
    slurm: Annotated[
        list[str] | None,
        typer.Option("--slurm", metavar="KEY=VALUE", help="A parameter of the Slurm jobs, e.g. --slurm partition=gpu."),
    ] = None,
    results: Annotated[
        Path | None, typer.Option("--results", help="File of the rows (default: results.jsonl in the curve's folder).")
    ] = None,
    report: Annotated[bool, typer.Option("--report", help="Train nothing: report on what has been measured.")] = False,
    overrides: Annotated[list[str] | None, sets("draws=5")] = None,
    out: Out = RUNS,
    as_json: Json = False,
) -> None:
    """Compare arms over numbers of labels and draws of labelled cases; a curve that was stopped goes on."""
    announce("curve", config)
    from pipelines import curve as program

    program.run(
        config,
        overrides or [],
        out,
        results=results,
        arms=_listed(arms),
        labelled=_listed(labelled),
        draws=_numbers(draws),
        executor=executor.value,
        jobs=jobs,
        slurm=slurm or [],
        budget=budget,
        format=format,
        report_only=report,
        as_json=as_json,
    )


def _listed(text: str | None) -> list[str] | None:
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]


def _numbers(text: str | None) -> list[int] | None:
    found = _listed(text)
    if found is not None and not all(part.isdigit() for part in found):
        raise ConfigError(f"'{text}' are no numbers.", where="--draws", remedy="Write for example --draws 0,1.")
    return None if found is None else [int(part) for part in found]
