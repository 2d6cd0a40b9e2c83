"""``medae brainmask``: masks of the brain by the network that travels in the package, in each scan's own space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field

from medae.config import Config, apply_overrides, digest, validate
from medae.data.brain_masks import DOUBTFUL
from medae.errors import DataError, GeometryError
from medae.export.nifti import write_native
from medae.formats.endings import stem
from medae.inference.brainmask import MaskNetwork
from medae.preprocessing.brain import Extracted
from medae.volume import NativeGrid, from_ras
from pipelines.console import Screen
from pipelines.inputs import Scan, find_inputs
from pipelines.networks import device_of
from pipelines.work import Work, work_through

SAME_PLACE_MM = 0.1


class Options(Config):
    """format: layout of the input. data: further keys of that layout. doubtful: whether the voxels that the network is not
    sure of are written as well, as ``NAME_doubtful.nii.gz``."""

    format: str = "auto"
    data: dict[str, Any] = Field(default_factory=dict)
    doubtful: bool = False
    device: Literal["auto", "cpu", "cuda"] = "auto"


def run(
    source: Path,
    output: Path,
    options: Mapping[str, Any],
    overrides: Sequence[str] = (),
    as_json: bool = False,
    force: bool = False,
) -> dict[str, Any]:
    """Mask every scan that is not done yet. A scan that fails is listed at the end, and the others are done.

    force: take the place of results of other options.
    """
    screen = Screen(as_json)
    choice = validate(Options, apply_overrides(options, overrides), where="--set")
    inputs = find_inputs(source, output, screen, choice.format, choice.data)
    work = _Masking(MaskNetwork(device=str(device_of(choice.device))), output, inputs.single, choice.doubtful)
    result = {"stage": "brainmask", "network": work.network.name}
    return work_through(inputs, output, screen, "Finding brains", work, result, force=force)


Images = list[tuple[np.ndarray, NativeGrid]]


class _Masking(Work[Images, tuple[Extracted, NativeGrid]]):
    """Writes the mask of each scan, on the grid of its first image."""

    def __init__(self, network: MaskNetwork, output: Path, single: bool, doubtful: bool) -> None:
        self.network, self.output, self.single, self.doubtful = network, output, single, doubtful
        self.key = digest({"network": network.name, "doubtful": doubtful})[:16]

    def files_of(self, scan: Scan) -> list[Path]:
        mask = self.output if self.single else self.output / f"{scan.name}.nii.gz"
        return [mask, mask.with_name(f"{stem(mask)}{DOUBTFUL}.nii.gz")] if self.doubtful else [mask]

    def read(self, scan: Scan) -> Images:
        if scan.modality() == "CT":
            raise DataError("The network finds brains in MR, and this image is CT.", where=scan.name, remedy="Leave it out.")
        images = scan.images()
        affine = images[0][1].ras()[1]
        for array, grid in images[1:]:
            if array.shape != images[0][0].shape or np.abs(grid.ras()[1] - affine).max() > SAME_PLACE_MM:
                raise GeometryError(
                    "The images of the scan lie on different grids.",
                    where=scan.name,
                    remedy="Resample them onto one grid, or mask them one by one.",
                )
        return images

    def make(self, scan: Scan, images: Images) -> tuple[Extracted, NativeGrid]:
        native = images[0][1]
        return self.network(torch.from_numpy(np.concatenate([array for array, _ in images])), native.ras()[1]), native

    def write(self, scan: Scan, made: tuple[Extracted, NativeGrid]) -> dict[str, Any]:
        found, native = made
        assert found.doubtful is not None  # this network says
        mask, unsure = (from_ras(part.numpy(), native.matrix())[0] for part in (found.mask, found.doubtful))
        files = self.files_of(scan)
        for file, array in zip(files, (mask, unsure), strict=False):
            write_native(array.astype(np.uint8), native, file, labels=True)
        volumes = {"brain_ml": int(mask.sum()) * native.voxel_ml, "doubtful_ml": int(unsure.sum()) * native.voxel_ml}
        return {**volumes, "files": [file.name for file in files]}
