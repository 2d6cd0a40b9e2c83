"""The parts that a bundle's configuration names: the stored model, transforms before and after it, inferer, evaluator."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any, cast

import torch
from monai.data.dataset import Dataset
from monai.inferers.inferer import Inferer
from monai.transforms.transform import Transform
from safetensors.torch import load_file
from torch import Tensor, nn

from medae.errors import DataError, MedaeError
from medae.export.bundled.finest import FinestMap
from medae.export.bundled.frozen import read
from medae.export.nifti import write_native
from medae.formats.endings import NIFTI, stem
from medae.inference.combine import Segmenter
from medae.inference.contract import Look, cut_off, differences, refuse
from medae.inference.native import labels_to_native
from medae.models.networks import StoredConfig, build_network
from medae.plan import Plan
from medae.preprocessing.domain import Domain
from medae.preprocessing.prepare import Prepared, prepare_files

log = logging.getLogger(__name__)

CHANNEL_NUMBER = re.compile(r"(.+)_(\d{4})")


class StoredModel:
    """What the folder ``models`` of a bundle holds: a medae model, ``medae.json`` and ``weights.safetensors``."""

    def __init__(self, bundle_root: str | Path) -> None:
        self.folder = Path(bundle_root) / "models"
        meta = json.loads((self.folder / "medae.json").read_text(encoding="utf-8"))["meta"]
        self.network_config: Any = read(StoredConfig, meta["network"])
        self.plan: Plan = read(Plan, meta["plan"])
        self.domain: Domain | None = read(Domain | None, meta.get("domain"))
        self.labels = {int(value): str(name) for value, name in meta["labels"].items() if int(value)}
        known = meta["provenance"]
        self.mirrored: tuple[int, ...] = tuple(known.get("mirrored", ())) if known.get("flips") else ()

    def network(self) -> FinestMap:
        """The network with its weights, on the CPU, in evaluation mode."""
        network = build_network(self.network_config)
        network.load_state_dict(load_file(self.folder / "weights.safetensors"))
        return FinestMap(network).eval()

    def scans(
        self, folder: str | Path, masks: str | Path | None = None, output: str | Path | None = None
    ) -> list[dict[str, Any]]:
        """The scans in a folder: ``name``, ``files`` by channel, ``mask`` (a file of the same name in ``masks``, or None).

        Files whose names all end as nnU-Net numbers channels (``NAME_0000``, ``NAME_0001``) are one scan a NAME, numbers in
        the order of the plan's channels; for a model of one channel only if every NAME has a 0000. Else each file is a scan.
        Raises DataError if there is none, a number is too high, two files have one name, or ``output``, the folder of the
        results, is one of these folders: a label map would take the place of its scan.
        """
        if output is not None and Path(output).resolve() in {Path(each).resolve() for each in (folder, masks) if each}:
            raise DataError(
                "The results would take the place of the scans.", where=output, remedy="Give another output_dir."
            )
        files = sorted(path for path in Path(folder).glob("*") if path.name.endswith(NIFTI) and path.name[0] != ".")
        channels = self.plan.space.channels
        numbers = [CHANNEL_NUMBER.fullmatch(stem(path)) for path in files]
        named = [match for match in numbers if match is not None]
        first = {match[1] for match in named if int(match[2]) == 0}
        are_channels = len(named) == len(files) and (len(channels) > 1 or {match[1] for match in named} == first)
        if not files or (len(channels) > 1 and not are_channels):
            names = "NAME" if len(channels) == 1 else ", ".join(f"NAME_{place:04}" for place in range(len(channels)))
            raise DataError(
                "The folder holds no scans for this model.", where=folder, remedy=f"Give NIfTI files: {names} (.nii.gz)."
            )
        found: dict[str, dict[str, Path]] = {}
        for path, match in zip(files, numbers, strict=True):
            name, place = (match[1], int(match[2])) if match and are_channels else (stem(path), 0)
            if place >= len(channels):
                raise DataError(f"The model takes the channels {', '.join(channels)}, no more.", where=path.name)
            if (before := found.setdefault(name, {}).setdefault(channels[place], path)) != path:
                raise DataError(f"It has the same name as {before.name}.", where=path.name, remedy="Rename one of them.")
        return [{"name": name, "files": images, "mask": _mask_of(images, masks)} for name, images in found.items()]


def _mask_of(images: Mapping[str, Path], masks: str | Path | None) -> Path | None:
    return None if masks is None else Path(masks) / next(iter(images.values())).name


class PrepareScand(Transform):
    """Reads a scan and brings it into the plan's space, as medae does: adds ``image`` and ``prepared``.

    image: float32 ``[C, I, J, K]``, nearest-RAS axes, plan spacing, normalised. prepared: the same with the way back.
    """

    def __init__(self, model: StoredModel, anyway: bool = False) -> None:
        """anyway: take scans that are refused because they are unlike the training scans."""
        self.space, self.domain, self.anyway = model.plan.space, model.domain, anyway

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Raises DataError for a scan that cannot be used, or that is unlike the training scans."""
        name, mask, look = data["name"], data["mask"], Look()
        if self.space.foreground == "brain" and (mask is None or not mask.is_file()):
            raise DataError(
                "The model needs the brain mask of the scan, and there is none.",
                where=name,
                remedy="Put it into mask_dir under the file name of the scan; medae brainmask makes masks.",
            )
        prepared = prepare_files({key: [path] for key, path in data["files"].items()}, self.space, name, mask, change=look)
        for remark in refuse(differences(self.space, self.domain, prepared, look, "unknown"), name, self.anyway):
            log.warning("%s: %s", name, remark)
        return {**data, "image": prepared.image, "prepared": prepared}


@dataclass(frozen=True)
class _Image:
    """As much of a Prepared as a network needs."""

    image: Tensor


class ScanInferer(Inferer):
    """Slides a network over whole scans as medae does: its windows, its blending, its mirror images, its slices in 2D."""

    def __init__(self, model: StoredModel) -> None:
        super().__init__()
        self.plan, self.mirrored = model.plan, model.mirrored

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Tensor:
        """Probabilities ``[1, K, I, J, K]`` of ``[1, C, I, J, K]``; of an ensemble, those of its members added up."""
        own = cast(FinestMap, network).network
        segmenter = Segmenter(own, self.plan, next(own.parameters()).device, self.mirrored)
        image = cast(Prepared, _Image(inputs[0]))
        with torch.inference_mode():
            return reduce(Tensor.add_, segmenter.probabilities(image))[None]


class LabelsOfScand(Transform):
    """The label map on the scan's own grid and axes, int16, in the place of the probabilities ``pred`` ``[K, I, J, K]``.

    What may be cut off by the edge of the image is said in the log.
    """

    def __init__(self, model: StoredModel) -> None:
        self.domain, self.names = model.domain, model.labels

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """``pred`` of the result is a numpy array ``[*shape]``."""
        labels = data["pred"].argmax(dim=0, keepdim=True).to(torch.int16)
        for remark in cut_off(labels[0].cpu().numpy(), self.domain, data["prepared"], self.names):
            log.warning("%s: %s", data["name"], remark)
        return {**data, "pred": labels_to_native(labels, data["prepared"])}


class WriteLabelsd(Transform):
    """Writes the label map ``pred`` as ``NAME.nii.gz``, in the geometry of the scan's file."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def __call__(self, data: Mapping[str, Any]) -> Mapping[str, Any]:
        """The data as they were."""
        path = self.folder / f"{data['name']}.nii.gz"
        write_native(data["pred"], data["prepared"].native, path, labels=True)
        log.info("%s is written.", path)
        return data


class ScanEvaluator:
    """Takes scans through the network one after another. MONAI's own evaluators need pytorch-ignite, and collate batches."""

    def __init__(self, dataset: Dataset, network: nn.Module, inferer: Inferer, postprocessing: Transform) -> None:
        self.dataset, self.network, self.inferer, self.postprocessing = dataset, network, inferer, postprocessing

    def run(self) -> None:
        """Every scan of the data set. Raises DataError at the end if some could not be used; the others are done."""
        failed = []
        for place in range(len(self.dataset)):
            try:
                data = self.dataset[place]
                self.postprocessing({**data, "pred": self.inferer(data["image"][None], self.network)[0]})
            except RuntimeError as error:  # what MONAI makes of an error within a transform
                failed.append(_reason(error))
        if failed:
            rows = "\n".join(str(error) for error in failed)
            raise DataError(f"{len(failed)} of {len(self.dataset)} scans failed:\n{rows}")


def _reason(error: BaseException) -> MedaeError:
    """The user's error that an error comes from. Raises the error if it comes from none."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MedaeError):
            return cause
        cause = cause.__cause__
    raise error
