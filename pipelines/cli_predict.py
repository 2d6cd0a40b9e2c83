"""The commands that apply models to scans: ``medae predict`` and ``medae brainmask``."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli_options import Device, Format, Json, announce, sets

Replace = Annotated[
    bool, typer.Option("--force", help="Replace results of another model or other options, and files of unknown origin.")
]


class FormChoice(Enum):
    """What ``medae predict --to`` takes."""

    nifti = "nifti"
    nnunet = "nnunet"
    bids = "bids"
    nrrd = "nrrd"
    dicom = "dicom"


def predict(
    model: Annotated[str, typer.Argument(help="A model folder, runs:/… or models:/name@alias.")],
    source: Annotated[Path, typer.Argument(metavar="INPUT", help="An image, a folder of images, or a data set.")],
    output: Annotated[Path, typer.Argument(help="Folder for the results (a file name for a single image).")],
    models: Annotated[
        list[str] | None,
        typer.Option("--with", metavar="MODEL", help="A further segmenter: probabilities are averaged. May be repeated."),
    ] = None,
    form: Annotated[
        FormChoice, typer.Option("--to", help="Form of the results: DICOM for DICOM, .seg.nrrd for 3D Slicer.")
    ] = FormChoice.nifti,
    format: Format = "auto",
    brain_mask: Annotated[
        Path | None,
        typer.Option(
            "--brain-mask", help="Brain mask of the image, or the folder of masks with the images' names (any ending)."
        ),
    ] = None,
    codes: Annotated[
        Path | None, typer.Option("--codes", help="YAML: what segments are in DICOM, by label name, in codes.")
    ] = None,
    flips: Annotated[bool, typer.Option("--flips", help="Average over mirror images of the input.")] = False,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Predict scans that are refused as unlike the training scans, too.")
    ] = False,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Threads that read scans ahead.")] = 1,
    device: Device = "auto",
    force: Replace = False,
    overrides: Annotated[list[str] | None, sets("data.modality=CT")] = None,
    as_json: Json = False,
) -> None:
    """Apply trained models to scans; results overlay the scans in their own space. What is done is not done again."""
    announce("predict", model)
    from pipelines import predict as program

    options = {"format": format, "flips": flips, "device": device, "brain_mask": brain_mask, "to": form.value}
    options |= {} if codes is None else {"codes": program.read_codes(codes)}
    options |= {"models": models or [], "anyway": anyway, "workers": workers, "force": force}
    program.run(model, source, output, options, overrides or [], as_json)


def brainmask(
    source: Annotated[Path, typer.Argument(metavar="INPUT", help="An image, a folder of images, or a data set; MR.")],
    output: Annotated[Path, typer.Argument(help="Folder for the masks (a file name for a single image).")],
    format: Format = "auto",
    doubtful: Annotated[bool, typer.Option("--doubtful", help="Write where the network is not sure, too.")] = False,
    device: Device = "auto",
    force: Replace = False,
    overrides: Annotated[list[str] | None, sets("data.modality=MR")] = None,
    as_json: Json = False,
) -> None:
    """Find the brain in MR of heads, whatever the contrast."""
    announce("brainmask", "the network in the package")
    from pipelines import brainmask as program

    options = {"format": format, "doubtful": doubtful, "device": device}
    program.run(source, output, options, overrides or [], as_json, force)
