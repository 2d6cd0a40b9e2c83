"""``medae brainmask``: masks of the brain by the network that travels in the package, in each scan's own space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field

from medae.config import Config, apply_overrides, validate
from medae.errors import DataError, GeometryError
from medae.export.nifti import write_native
from medae.formats.endings import stem
from medae.inference.brainmask import MaskNetwork
from medae.volume import from_ras
from pipelines.console import Screen
from pipelines.inputs import Scan, find_inputs, work_through
from pipelines.networks import device_of

SAME_PLACE_MM = 0.1


class Options(Config):
    """format: layout of the input. data: further keys of that layout. doubtful: whether the voxels that the network is not
    sure of are written as well, as ``NAME_doubtful.nii.gz``."""

    format: str = "auto"
    data: dict[str, Any] = Field(default_factory=dict)
    doubtful: bool = False
    device: Literal["auto", "cpu", "cuda"] = "auto"


def run(
    source: Path, output: Path, options: Mapping[str, Any], overrides: Sequence[str] = (), as_json: bool = False
) -> dict[str, Any]:
    """Mask every scan. A scan that fails is listed at the end, and the others are done."""
    screen = Screen(as_json)
    choice = validate(Options, apply_overrides(options, overrides), where="--set")
    inputs = find_inputs(source, output, screen, choice.format, choice.data)
    network = MaskNetwork(device=str(device_of(choice.device)))

    def masked(scan: Scan, path: Path) -> dict[str, Any]:
        return _mask(network, scan, path, choice.doubtful)

    return work_through(inputs, output, screen, "Finding brains", masked, {"stage": "brainmask", "network": network.name})


def _mask(network: MaskNetwork, scan: Scan, path: Path, doubtful: bool) -> dict[str, Any]:
    """Write the mask of a scan, on the grid of its first image."""
    if scan.modality == "CT":
        raise DataError("The network finds brains in MR, and this image is CT.", where=scan.name, remedy="Leave it out.")
    images = scan.images()
    native = images[0][1]
    affine = native.ras()[1]
    for array, grid in images[1:]:
        if array.shape != images[0][0].shape or np.abs(grid.ras()[1] - affine).max() > SAME_PLACE_MM:
            raise GeometryError(
                "The images of the scan lie on different grids.",
                where=scan.name,
                remedy="Resample them onto one grid, or mask them one by one.",
            )
    found = network(torch.from_numpy(np.concatenate([array for array, _ in images])), affine)
    assert found.doubtful is not None  # this network says
    mask, unsure = (from_ras(part.numpy(), native.matrix())[0] for part in (found.mask, found.doubtful))
    write_native(mask.astype(np.uint8), native, path, labels=True)
    if doubtful:
        write_native(unsure.astype(np.uint8), native, path.with_name(f"{stem(path)}_doubtful.nii.gz"), labels=True)
    voxel_ml = native.voxel_ml
    return {"brain_ml": int(mask.sum()) * voxel_ml, "doubtful_ml": int(unsure.sum()) * voxel_ml}
