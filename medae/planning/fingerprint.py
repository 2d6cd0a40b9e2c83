"""The fingerprint of a data set: what its scans are like, as far as a plan depends on it."""

from __future__ import annotations

from collections.abc import Callable

import nibabel as nib
import numpy as np
import torch
from torch import Tensor

from medae.data.case import Case, ImageRef, Manifest, Modality
from medae.data.reading import read_image
from medae.errors import DataError
from medae.plan import Foreground
from medae.planning.facts import Fingerprint, Intensities, Range, Triple
from medae.planning.structures import Found, structures_in, summarised
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


def fingerprint(manifest: Manifest, limit: int = 32, progress: Callable[[int, int], None] | None = None) -> Fingerprint:
    """Read at most ``limit`` cases, evenly spread over all in the order of their contents' digests, and describe them.

    progress: called with the number of cases read and to read. The result depends on the contents only: it is the same
    whatever the files and the cases are called.
    Raises DataError for an empty manifest and for files that cannot be used.
    """
    if not manifest.cases:
        raise DataError("The data set has no cases.", remedy="Check the root and the format of the data.")
    places = np.unique(np.linspace(0, len(manifest.cases) - 1, min(limit, len(manifest.cases))).astype(int))
    cases = sorted(manifest.cases, key=_contents)
    reading = _Reading(manifest)
    for done, place in enumerate(places, start=1):
        reading.add(cases[place])
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


def tail_weight(values: np.ndarray) -> float | None:
    """How much wider than its middle a distribution is, see `Intensities`; None if more than half of it is one value."""
    lower, median, upper = np.percentile(values, [0.5, 50, 99.5])
    clipped = np.clip(values, lower, upper).astype(np.float64)
    middle = 1.4826 * float(np.median(np.abs(clipped - median)))
    return float(clipped.std()) / middle if middle else None


class _Channel:
    """What has been read of one channel."""

    def __init__(self) -> None:
        self.samples: list[np.ndarray] = []
        self.labelled: list[np.ndarray] = []
        self.modalities: set[tuple[Modality, bool]] = set()
        self.ranges: list[Range] = []
        self.tails: list[float | None] = []
        self.eight_bit = 0

    def add(
        self, image_IJK: np.ndarray, mask_IJK: np.ndarray, modality: tuple[Modality, bool], draw: np.random.Generator
    ) -> None:
        """Take in an image and its foreground."""
        self.modalities.add(modality)
        self.ranges.append((float(image_IJK.min()), float(image_IJK.max())))
        self.eight_bit += bool(self.ranges[-1][0] >= 0 and self.ranges[-1][1] <= 255 and (image_IJK % 1 == 0).all())
        values = image_IJK[mask_IJK]
        values = values[values >= PADDING] if modality[0] == "CT" else values
        self.samples.append(draw.choice(values, min(SAMPLE, len(values)), replace=False))
        if len(values):
            self.tails.append(tail_weight(self.samples[-1]))

    def result(self) -> Intensities:
        """Over all that was read."""
        kinds = {modality for modality, _ in self.modalities}
        values = np.concatenate(self.samples)
        lower, median, upper = np.percentile(values, [0.5, 50, 99.5]).tolist()
        clipped = np.clip(values, lower, upper).astype(np.float64)
        inside = np.concatenate(self.labelled) if self.labelled else np.empty(0)
        labelled = np.percentile(inside, [0.5, 50, 99.5]).tolist() if inside.size else None
        return Intensities(
            modality=kinds.pop() if len(kinds) == 1 else "unknown",
            guessed=any(guessed for _, guessed in self.modalities),
            lower=lower,
            median=median,
            upper=upper,
            mean=float(clipped.mean()),
            std=float(clipped.std()),
            ranges=tuple(self.ranges),
            eight_bit=self.eight_bit,
            tails=tuple(self.tails),
            labelled=labelled,
        )


class _Reading:
    """What has been read so far."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.shapes: list[Triple] = []
        self.boxes: list[Triple] = []
        self.spacings: list[tuple[float, float, float]] = []
        self.orientations: list[str] = []
        self.foreground: list[Foreground] = []
        self.channels = {name: _Channel() for name in manifest.channels}
        self.structures: dict[str, list[dict[int, Found]]] = {}

    def add(self, case: Case) -> None:
        """Read a case's channels and label maps."""
        volumes = {name: read_image(self.manifest, ref) for name, ref in case.images.items() if name in self.channels}
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
        self.orientations.append("".join(nib.aff2axcodes(first.native.matrix())))
        self.foreground.append(rule)
        inside, own = self._labels(case, first), _contents(case)[0]
        for channel, (name, modality) in zip(image.numpy(), modalities.items(), strict=True):
            self.channels[name].add(channel, mask.numpy(), modality, numpy_generator(0, "fingerprint", own, name))
            if inside is not None and inside.shape == channel.shape:
                values, draw = channel[inside], numpy_generator(0, "fingerprint", own, name, "labelled")
                self.channels[name].labelled.append(draw.choice(values, min(SAMPLE, len(values)), replace=False))

    def _labels(self, case: Case, image: Volume) -> np.ndarray | None:
        """Read a case's label maps. Returns where any of those on the image's grid has a label."""
        inside = None
        for name, target in case.targets.items():
            if isinstance(target, ImageRef):
                volume = read_image(self.manifest, target)
                labels = volume.image[0].numpy()
                found = structures_in(labels, spacing_of(volume.image.affine.numpy()))
                self.structures.setdefault(name, []).append(found)
                if labels.shape == image.image.shape[1:]:
                    inside = labels > 0 if inside is None else inside | (labels > 0)
        return inside

    def result(self) -> Fingerprint:
        """The fingerprint of what was read. Raises DataError if nothing was."""
        read = [name for name, channel in self.channels.items() if sum(map(len, channel.samples))]
        if not read:
            raise DataError(
                f"None of {len(self.manifest.cases)} cases has an image with foreground in a declared channel.",
                remedy="Check the channels of the data set and its images.",
            )
        return Fingerprint(
            cases=len(self.manifest.cases),
            channels=self.manifest.channels,
            shapes=tuple(self.shapes),
            boxes=tuple(self.boxes),
            spacings=tuple(self.spacings),
            orientations=tuple(self.orientations),
            foreground=tuple(self.foreground),
            intensities={name: self.channels[name].result() for name in read},
            labels={name: summarised(cases) for name, cases in self.structures.items()},
        )


def _contents(case: Case) -> list[str]:
    """Digests of a case's images, then of its label maps: an order of cases that no name and no secret changes."""
    labels = [target.sha256 for target in case.targets.values() if isinstance(target, ImageRef)]
    return sorted(ref.sha256 for ref in case.images.values()) + sorted(labels)


def _modality(declared: Modality, volume: Volume) -> tuple[Modality, bool]:
    """The modality, and whether it was guessed from the intensities."""
    if declared != "unknown":
        return declared, False
    darkest = np.percentile(volume.image.numpy(), 0.5)
    return ("CT" if darkest < HOUNSFIELD else "MR"), True


def _box(mask_IJK: Tensor) -> Triple:
    """Voxels of the box around the foreground; of the whole image if it has none."""
    if not mask_IJK.any():
        return _triple(mask_IJK.shape)
    places = [mask_IJK.any(dim=tuple(other for other in range(3) if other != axis)).nonzero() for axis in range(3)]
    return _triple([int(found[-1] - found[0]) + 1 for found in places])


def _triple(values: object) -> Triple:
    i, j, k = (int(value) for value in values)  # type: ignore[attr-defined]
    return i, j, k
