"""The fingerprint of a data set: what its scans are like, as far as a plan depends on it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from medae.config import Config
from medae.data.case import Case, ImageRef, Manifest, Modality
from medae.data.reading import read_image
from medae.errors import DataError
from medae.plan import Foreground
from medae.preprocessing.foreground import foreground_mask
from medae.seeding import numpy_generator
from medae.volume import Volume, spacing_of

HOUNSFIELD = -500.0
"""HU: an image whose darkest voxels lie below is taken for CT, because MR has no such negative values."""

PADDING = -1024.0
"""HU: values below this are a scanner's filling outside its field of view, not tissue or air."""

EMPTY = 0.05
"""Share of voxels that are exactly 0 from which a background has been set to 0."""

AIR = 0.1
"""Share of the other voxels that are nearly black from which they are the noise of air around the body."""

BLACK = 0.05
"""Nearly black: below this share of the 99.5th percentile."""

SAMPLE = 20_000
"""Voxels a case and channel that the intensity statistics are taken from."""

Triple = tuple[int, int, int]


class Intensities(Config):
    """Of one channel, in the files' units, inside the foreground, over all cases read.

    modality: as declared, otherwise guessed. lower, median, upper: percentiles 0.5, 50, 99.5. mean, std: after
    clipping to lower and upper.
    """

    modality: Modality
    guessed: bool
    lower: float
    median: float
    upper: float
    mean: float
    std: float


class LabelFrequency(Config):
    """Of one label: cases in which it occurs, and its mean share of the voxels."""

    cases: int
    share: float


class Fingerprint(Config):
    """What was found in the cases that were read; axes are I, J, K of the nearest RAS, lengths mm.

    cases: in the data set. shapes, boxes, spacings: an entry a case read; boxes are the bounding boxes of the foreground,
    in voxels. foreground: the rule that fits each case. intensities: by channel. labels: by target and label, over the
    cases read that have the target; 0 is left out.
    """

    cases: int
    channels: tuple[str, ...]
    shapes: tuple[Triple, ...]
    boxes: tuple[Triple, ...]
    spacings: tuple[tuple[float, float, float], ...]
    foreground: tuple[Foreground, ...]
    intensities: dict[str, Intensities]
    labels: dict[str, dict[int, LabelFrequency]]

    @property
    def median_spacing(self) -> tuple[float, float, float]:
        """mm along I, J, K."""
        i, j, k = np.median(self.spacings, axis=0).tolist()
        return i, j, k

    @property
    def median_shape(self) -> tuple[float, float, float]:
        """Voxels along I, J, K."""
        i, j, k = np.median(self.shapes, axis=0).tolist()
        return i, j, k

    @property
    def anisotropy(self) -> float:
        """The coarsest median spacing over the finest."""
        return max(self.median_spacing) / min(self.median_spacing)


def fingerprint(manifest: Manifest, limit: int = 32, progress: Callable[[int, int], None] | None = None) -> Fingerprint:
    """Read at most ``limit`` cases, evenly spread over the manifest, and describe them.

    progress: called with the number of cases read and to read. The result depends on the files only.
    Raises DataError for an empty manifest and for files that cannot be used.
    """
    if not manifest.cases:
        raise DataError("The data set has no cases.", remedy="Check the root and the format of the data.")
    places = np.unique(np.linspace(0, len(manifest.cases) - 1, min(limit, len(manifest.cases))).astype(int))
    reading = _Reading(manifest)
    for done, place in enumerate(places, start=1):
        reading.add(manifest.cases[place])
        if progress is not None:
            progress(done, len(places))
    return reading.result()


def background_rule(image_IJK: np.ndarray) -> Foreground:
    """How the foreground of an MR image is found: by its zeros, by a head mask, or all of it is foreground."""
    filled = image_IJK[image_IJK != 0]
    if not filled.size:
        return "all"
    air = float((filled < BLACK * np.percentile(filled, 99.5)).mean())
    if air >= AIR:
        return "head"
    return "nonzero" if 1 - filled.size / image_IJK.size >= EMPTY else "all"


class _Reading:
    """What has been read so far."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.shapes: list[Triple] = []
        self.boxes: list[Triple] = []
        self.spacings: list[tuple[float, float, float]] = []
        self.foreground: list[Foreground] = []
        self.samples: dict[str, list[np.ndarray]] = {name: [] for name in manifest.channels}
        self.modalities: dict[str, set[tuple[Modality, bool]]] = {name: set() for name in manifest.channels}
        self.shares: dict[str, list[dict[int, float]]] = {}

    def add(self, case: Case) -> None:
        """Read a case's channels and label maps."""
        volumes = {name: read_image(self.manifest, ref) for name, ref in case.images.items() if name in self.samples}
        if not volumes:
            return
        first = next(iter(volumes.values()))
        for name, volume in volumes.items():
            if volume.image.shape != first.image.shape:
                raise DataError(
                    f"The channel '{name}' does not have the same number of voxels as the others.",
                    where=case.id,
                    remedy="Resample the channels of a case onto one grid.",
                )
        image = torch.cat([volume.image.as_tensor() for volume in volumes.values()])
        modalities = {name: _modality(case.images[name].modality, volume) for name, volume in volumes.items()}
        is_ct = any(modality == "CT" for modality, _ in modalities.values())
        rule: Foreground = "all" if is_ct else background_rule(image[0].numpy())
        mask = foreground_mask(image, rule)[0]
        self.shapes.append(_triple(mask.shape))
        self.boxes.append(_box(mask))
        self.spacings.append(spacing_of(first.image.affine.numpy()))
        self.foreground.append(rule)
        for channel, (name, modality) in zip(image, modalities.items(), strict=True):
            self.modalities[name].add(modality)
            generator = numpy_generator(0, "fingerprint", case.id, name)
            values = channel[mask].numpy()
            values = values[values >= PADDING] if modality[0] == "CT" else values
            self.samples[name].append(generator.choice(values, min(SAMPLE, len(values)), replace=False))
        for name, target in case.targets.items():
            if isinstance(target, ImageRef):
                found, counts = np.unique(read_image(self.manifest, target).image.numpy(), return_counts=True)
                shares = {int(label): count / counts.sum() for label, count in zip(found, counts, strict=True) if label}
                self.shares.setdefault(name, []).append(shares)

    def result(self) -> Fingerprint:
        """The fingerprint of what was read. Raises DataError if nothing was."""
        read = [name for name in self.manifest.channels if sum(map(len, self.samples[name]))]
        if not read:
            raise DataError(
                f"None of {len(self.manifest.cases)} cases has an image with foreground in a declared channel.",
                remedy="Check the channels of the data set and its images.",
            )
        labels: dict[str, dict[int, LabelFrequency]] = {}
        for name, rows in self.shares.items():
            found = sorted({label for row in rows for label in row})
            labels[name] = {
                label: LabelFrequency(
                    cases=sum(label in row for row in rows), share=float(np.mean([row.get(label, 0.0) for row in rows]))
                )
                for label in found
            }
        return Fingerprint(
            cases=len(self.manifest.cases),
            channels=self.manifest.channels,
            shapes=tuple(self.shapes),
            boxes=tuple(self.boxes),
            spacings=tuple(self.spacings),
            foreground=tuple(self.foreground),
            intensities={name: _intensities(np.concatenate(self.samples[name]), self.modalities[name]) for name in read},
            labels=labels,
        )


def _modality(declared: Modality, volume: Volume) -> tuple[Modality, bool]:
    """The modality, and whether it was guessed from the intensities."""
    if declared != "unknown":
        return declared, False
    darkest = np.percentile(volume.image.numpy(), 0.5)
    return ("CT" if darkest < HOUNSFIELD else "MR"), True


def _intensities(values: np.ndarray, modalities: set[tuple[Modality, bool]]) -> Intensities:
    kinds = {modality for modality, _ in modalities}
    lower, median, upper = np.percentile(values, [0.5, 50, 99.5]).tolist()
    clipped = np.clip(values, lower, upper).astype(np.float64)
    return Intensities(
        modality=kinds.pop() if len(kinds) == 1 else "unknown",
        guessed=any(guessed for _, guessed in modalities),
        lower=lower,
        median=median,
        upper=upper,
        mean=float(clipped.mean()),
        std=float(clipped.std()),
    )


def _box(mask_IJK: Tensor) -> Triple:
    places = [mask_IJK.any(dim=tuple(other for other in range(3) if other != axis)).nonzero() for axis in range(3)]
    return _triple([int(found[-1] - found[0]) + 1 for found in places])


def _triple(values: object) -> Triple:
    i, j, k = (int(value) for value in values)  # type: ignore[attr-defined]
    return i, j, k
