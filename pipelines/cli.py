"""The command line: ``medae COMMAND``. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import errno
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from medae import __version__
from medae.errors import RESUME, Interrupted, MedaeError
from pipelines import cli_data
from pipelines.cli_curve import curve
from pipelines.cli_export import export
from pipelines.cli_options import RUNS, Commands, Device, Format, Json, Out, announce, sets
from pipelines.cli_predict import brainmask, predict


class _Commands(Commands):
    """What all commands share: an answer to Ctrl-C, and how to go on."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command. Raises Interrupted on Ctrl-C, at which Typer would end without a word."""
        in_the_way = [option for option in ("--force", "--no-resume") if option in sys.argv]
        without = f" without {' and '.join(in_the_way)}" if in_the_way else ""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            remedy = GO_ON.get(ctx.invoked_subcommand or "")
            said = "Interrupted." if remedy is None else f"Interrupted. The same command{without}{remedy}"
            raise Interrupted(said) from error
        except MedaeError as error:
            if GO_ON.get(ctx.invoked_subcommand or "") == BY_ITSELF and error.remedy is not None:
                error.remedy = error.remedy.replace(RESUME, f"run the same command{without} again")
            raise


app = typer.Typer(
    name="medae",
    cls=_Commands,
    help="Few-label segmentation and anomaly detection in CT and MR, from autoencoders pretrained on unlabelled scans.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # with rich the help takes twice as long to appear
)

app.add_typer(cli_data.app, name="data")


def _say_version(asked: bool) -> None:
    if asked:
        sys.stdout.write(f"medae {__version__}\n")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


class CaseIdChoice(Enum):
    """What ``--case-ids`` takes."""

    given = "given"
    hashed = "hashed"


class PrecisionChoice(Enum):
    """What ``medae plan --precision`` takes."""

    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


Overrides = Annotated[list[str] | None, sets("fit.steps=200")]
StageOverrides = Annotated[list[str] | None, sets("finetune.fit.steps=200")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with an unfinished run of the same configuration.")]
GoOn = Annotated[bool, typer.Option("--resume/--no-resume", help="Go on with an interrupted stage, or refuse to.")]
Force = Annotated[bool, typer.Option("--force", help="Run again although nothing changed; the old run is kept beside.")]
CaseIds = Annotated[CaseIdChoice, typer.Option("--case-ids", help="'hashed' hides the data set's own case ids.")]
StageCaseIds = Annotated[CaseIdChoice | None, typer.Option("--case-ids", help="Overrules the configuration's case_ids.")]
Workers = Annotated[
    int | None, typer.Option("--workers", min=1, help="Processes that read and prepare scans (default: 4, or fewer cores).")
]
ConfigName = Annotated[str, typer.Argument(metavar="CONFIG", help="A YAML file, or the name of a shipped configuration.")]
GO_ON = dict.fromkeys(("pretrain", "finetune", "detect"), " goes on with --resume.")
BY_ITSELF = " goes on where it was."
GO_ON |= dict.fromkeys(("run", "demo", "curve"), BY_ITSELF)
NO_ROOM = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR}


@app.command()
def check(
    data: Annotated[Path, typer.Argument(help="The folder of the data set.")],
    format: Format = "auto",
    case_ids: CaseIds = CaseIdChoice.given,
    overrides: Annotated[list[str] | None, sets("modality=CT")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for the report (default: runs/check/NAME of the data set).")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit status 2 for warnings too.")] = False,
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="Processes (default: one a core).")] = None,
    as_json: Json = False,
) -> None:
    """Look a data set over: layout, cases, labels, and what is wrong with which file."""
    from pipelines import check as program

    program.run(data, format, case_ids.value, overrides or [], out, workers=workers, strict=strict, as_json=as_json)


@app.command()
def plan(
    data: Annotated[Path, typer.Argument(help="The folder of the data set.")],
    format: Format = "auto",
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A choice of yours, e.g. --set spatial_dims=2, or data.subject=…"),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(
            "--memory", metavar="SIZE", help="What a training step may take, e.g. 8G: patch and batch are made to fit."
        ),
    ] = None,
    precision: Annotated[
        PrecisionChoice, typer.Option("--precision", help="In which a training step's memory is estimated.")
    ] = PrecisionChoice.fp32,
    out: Annotated[Path, typer.Option("--out", help="Where the plan is written; the fingerprint goes beside it.")] = Path(
        "plan.yaml"
    ),
    as_json: Json = False,
) -> None:
    """Choose spacing, intensity scheme, patch and network shape for a data set, with a reason for each."""
    from pipelines import plan as program

    program.run(data, format, overrides or [], out, as_json, memory, precision.value)


@app.command()
def pretrain(
    config: ConfigName,
    overrides: Overrides = None,
    case_ids: StageCaseIds = None,
    workers: Workers = None,
    out: Out = RUNS,
    resume: Resume = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Pretrain an autoencoder on unlabelled scans."""
    _stage("pretrain", config, overrides, _chosen(case_ids, workers), out, resume, force, as_json)


@app.command()
def finetune(
    config: ConfigName,
    encoder: Annotated[
        str | None,
        typer.Option("--encoder", help="Pretrained model: a folder, runs:/…, models:/name@alias; 'none' for scratch only."),
    ] = None,
    folds: Annotated[
        int | None, typer.Option("--folds", min=2, help="Networks an arm, each without a fold of the labels; averaged.")
    ] = None,
    overrides: Overrides = None,
    case_ids: StageCaseIds = None,
    workers: Workers = None,
    out: Out = RUNS,
    resume: Resume = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Fine-tune a segmenter on few labels, beside the same network from scratch."""
    extra: dict[str, Any] = {} if encoder is None else {"encoder": None if encoder == "none" else encoder}
    extra |= {} if folds is None else {"folds": folds}
    _stage("finetune", config, overrides, extra | _chosen(case_ids, workers), out, resume, force, as_json)


@app.command()
def detect(
    config: ConfigName,
    model: Annotated[
        str | None, typer.Option("--model", help="Score with this trained autoencoder instead of training one.")
    ] = None,
    folds: Annotated[
        int | None,
        typer.Option("--folds", min=2, help="Test every subject once, in so many trainings; a stopped run goes on."),
    ] = None,
    overrides: Overrides = None,
    case_ids: StageCaseIds = None,
    workers: Workers = None,
    out: Out = RUNS,
    resume: Resume = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Score anomalies by reconstruction error, calibrated on normal scans."""
    extra: dict[str, Any] = {} if model is None else {"model": model}
    extra |= {} if folds is None else {"folds": folds}
    announce("detect", config)
    from pipelines import detect_folds

    extra |= _chosen(case_ids, workers)
    detect_folds.command(config, overrides or [], extra, out, resume, force, as_json)


@app.command()
def diagnose(
    model: Annotated[str, typer.Argument(help="A detector: a folder, runs:/… or models:/name@alias.")],
    data: Annotated[Path, typer.Argument(help="A data set of normal scans that it has not seen.")],
    format: Format = "auto",
    target: Annotated[
        str | None, typer.Option("--target", help="Label map of lesions: scans that have one are left out.")
    ] = None,
    device: Device = "auto",
    overrides: Annotated[list[str] | None, sets("diagnosis.radii=[3,5]")] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for the report.")] = RUNS / "diagnose",
    as_json: Json = False,
) -> None:
    """Put lesions of known contrast, size and edge into normal scans, and show which of them a detector finds."""
    announce("diagnose", model)
    from pipelines import diagnose as program

    program.run(model, data, out, {"format": format, "target": target, "device": device}, overrides or [], as_json)


app.command()(predict)
app.command()(brainmask)


@app.command()
def evaluate(
    predictions: Annotated[Path, typer.Argument(help="A label map or a folder of label maps.")],
    labels: Annotated[Path, typer.Argument(help="The reference label map, or the folder of them with the same file names.")],
    tolerance: Annotated[float, typer.Option("--tolerance", help="Tolerance of the surface Dice, mm.")] = 1.0,
    out: Annotated[Path, typer.Option("--out", help="Folder for the report.")] = RUNS / "evaluate",
    images: Annotated[
        Path | None, typer.Option("--images", help="The scans, as the labels are given, to look at the worst cases.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare label maps with references: Dice, HD95, surface Dice."""
    from pipelines import evaluate as program

    program.run(predictions, labels, {"tolerance": tolerance}, out, images, as_json)


@app.command()
def run(
    pipeline: Annotated[str, typer.Argument(metavar="PIPELINE", help="A YAML file, or the name of a shipped pipeline.")],
    overrides: StageOverrides = None,
    case_ids: StageCaseIds = None,
    workers: Workers = None,
    out: Out = RUNS,
    resume: GoOn = True,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Run a chain of stages; finished ones that nothing changed for are skipped, an interrupted one goes on."""
    announce("run", pipeline)
    _run(pipeline, overrides, _chosen(case_ids, workers), out, resume, force, as_json)


@app.command()
def demo(
    overrides: StageOverrides = None,
    workers: Workers = None,
    out: Out = RUNS,
    resume: GoOn = True,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """All three stages on phantoms made from the ICBM-152 template: no data needed, 5 to 25 minutes on two CPU cores."""
    announce("demo", "all three stages on phantoms")
    _run("demo", overrides, _chosen(None, workers), out, resume, force, as_json)


app.command()(curve)
app.command()(export)


@app.command()
def info(
    model: Annotated[str, typer.Argument(help="A model folder, runs:/… or models:/name@alias.")],
    as_json: Json = False,
) -> None:
    """Show a model's card: what it was trained on, its plan, labels and metrics."""
    from pipelines import info as program

    program.run(model, as_json)


@app.command()
def promote(
    which: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="models:/NAME@newest, models:/NAME/VERSION, or the id of a run (runs:/ID)."),
    ],
    alias: Annotated[str, typer.Option("--alias", help="What the model is to be called: models:/NAME@alias.")] = "champion",
    arm: Annotated[str | None, typer.Option("--arm", help="Which of the run's models (default: its own).")] = None,
    force: Annotated[bool, typer.Option("--force", help="Although it is worse, or cannot be compared.")] = False,
    as_json: Json = False,
) -> None:
    """Give a model an alias, if it is no worse on the same test cases than the model that has it now."""
    from pipelines import promote as program

    program.run(which, alias, arm, force, as_json)


def _stage(
    kind: str,
    name: str,
    overrides: list[str] | None,
    extra: dict[str, Any],
    out: Path,
    resume: bool,
    force: bool,
    as_json: bool,
) -> None:
    announce(kind, name)
    from pipelines import stage

    stage.command(kind, name, overrides or [], extra, out, resume, force, as_json)


def _run(
    name: str,
    overrides: list[str] | None,
    shared: dict[str, Any],
    out: Path,
    resume: bool,
    force: bool,
    as_json: bool,
) -> None:
    from pipelines import run as program

    chosen = [f"shared.{key}={value}" for key, value in shared.items()]
    program.run(name, [*chosen, *(overrides or [])], out, resume=resume, force=force, as_json=as_json)


def _chosen(case_ids: CaseIdChoice | None, workers: int | None) -> dict[str, Any]:
    chosen = {"case_ids": None if case_ids is None else case_ids.value, "workers": workers}
    return {key: value for key, value in chosen.items() if value is not None}


def main() -> None:
    """Entry point. Exit status: 0, 2 for a user's error, 1 for a fault of medae's, 130 when interrupted."""
    try:
        app()
    except Interrupted as error:
        _fail(str(error), 130)
    except MedaeError as error:
        _fail(f"Error: {error}", 2)
    except KeyboardInterrupt:
        _fail("Interrupted.", 130)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            _fail(f"Error: {error.strerror}.\n  where:  {error.filename}\n  remedy: Choose another folder.", 2)
        import traceback

        traceback.print_exc()
        _fail(f"This is a fault of medae, not of yours: {type(error).__name__}. Please report the lines above.", 1)


def _fail(message: str, status: int) -> None:
    sys.stdout.flush()
    sys.stderr.write(message + "\n")
    raise SystemExit(status)


if __name__ == "__main__":
    main()
