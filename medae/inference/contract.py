"""Whether a new scan is of the kind that a model was trained on: modality, units, spacing, channels, field of view.

What makes a result worthless is refused by name; what may, is said. A model that was stored before there was a record of its
training scans (``domain``) is held to its plan alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from medae.data.case import Modality
from medae.errors import DataError
from medae.plan import SpacePlan
from medae.preprocessing.domain import FOREGROUND, Domain, named, shown_range, sides_reached
from medae.preprocessing.prepare import Prepared
from medae.volume import spacing_of

SAID, REFUSED = 1.5, 4.0
"""By how many times voxels are larger or smaller than those of all training scans, before it is said, and before the scan is
refused."""

EXTENT = 1.33
"""By how many times the foreground is larger or smaller than in all training scans before it is said."""

HU_OF_AIR = -500.0
FEW_VALUES = 16
"""So few different whole numbers are a label map."""

FLAT = 0.55
"""Of neighbours outside the commonest value, the share above which they are equal because the image is a label map: at most
0.33 in 222 scans of six kinds, at least 0.76 in 151 label maps of four."""

BLOCK = 100
"""Voxels an axis, in the middle of a channel, whose neighbours are looked at."""

LOOKED_AT = 1_000_000
"""Voxels of a channel that are looked at, at most."""

ANYWAY = "--anyway predicts it all the same."

AXES = ("from left to right", "from posterior to anterior", "from inferior to superior")


@dataclass
class Look:
    """Looks at the raw channels of a scan while it is prepared (a ``Change`` that changes nothing).

    lowest: the 0.5th percentile of each channel in the file's units. values: how many different values there are; None if
    they are not all whole numbers. flat: the share of neighbours that are equal, where neither has the commonest value.
    """

    lowest: list[float] = field(default_factory=list)
    values: list[int | None] = field(default_factory=list)
    flat: list[float] = field(default_factory=list)

    def __call__(self, raw_CIJK: Tensor, mask_1IJK: Tensor, affine: np.ndarray) -> Tensor:
        """Take note of every channel."""
        for channel in raw_CIJK.numpy():
            step = max(1, round((channel.size / LOOKED_AT) ** (1 / 3)))
            some = channel[::step, ::step, ::step]
            self.lowest.append(float(np.percentile(some, 0.5)))
            self.values.append(len(np.unique(some)) if np.array_equal(some, np.rint(some)) else None)
            self.flat.append(_flat(channel))
        return raw_CIJK


@dataclass(frozen=True)
class Difference:
    """What is unlike the training scans, in a sentence. refused: whether a result would be worthless."""

    text: str
    refused: bool
    remedy: str = ""


def differences(
    space: SpacePlan, domain: Domain | None, prepared: Prepared, look: Look, modality: Modality
) -> list[Difference]:
    """How a scan differs from what the model was trained on. look: of its raw channels. modality: as its file says."""
    found = [*_modality(space, domain, look, modality), *_channels(space, domain, prepared)]
    if domain is not None:
        found += _voxels(space, domain, prepared)
        found += _extent(space, domain, prepared)
        if space.foreground == "brain":
            found += _cut(domain, prepared.mask[0].numpy().astype(np.int16), prepared, {}, FOREGROUND)
    return found


def refuse(found: Sequence[Difference], where: str, anyway: bool, hint: str = ANYWAY) -> list[str]:
    """The sentences of what differs. Raises DataError for what is refused, unless it is wanted anyway. hint: of how."""
    worst = [each for each in found if each.refused]
    if worst and not anyway:
        raise DataError(
            " ".join(each.text for each in worst),
            where=where,
            remedy=" ".join([*dict.fromkeys(each.remedy for each in worst), *([hint] if hint else [])]),
        )
    return [each.text for each in found]


def cut_off(labels_IJK: np.ndarray, domain: Domain | None, prepared: Prepared, names: Mapping[int, str]) -> list[str]:
    """Structures that reach a side of the image that they reached in no training scan.

    labels: a prediction on the plan's grid.
    """
    if domain is None:
        return []
    return [each.text for each in _cut(domain, labels_IJK, prepared, names)]


def _modality(space: SpacePlan, domain: Domain | None, look: Look, modality: Modality) -> list[Difference]:
    known = {each for each in (domain.modalities if domain else ()) if each != "unknown"}
    wants = "CT" if space.intensity.kind == "ct_window" else next(iter(known)) if len(known) == 1 else None
    if (text := _label_map(look)) is not None:
        return [Difference(text, True, "Give the scan itself.")]
    if wants is None:
        return []
    if modality not in ("unknown", wants):
        return [Difference(f"The model is for {wants}, and the image is {modality}.", True, f"Give {wants}.")]
    if wants == "CT" and min(look.lowest) >= 0 and (domain is None or domain.lowest is None or domain.lowest[1] < 0):
        text = "The model is for CT in Hounsfield units, and hardly a value of the image is below 0."
        return [Difference(text, True, "Give CT whose rescale intercept was applied.")]
    if wants == "MR" and min(look.lowest) < HU_OF_AIR:
        text = f"The model is for MR, and the image has values down to {min(look.lowest):.0f}, as CT has."
        return [Difference(text, True, "Give MR.")]
    return []


def _label_map(look: Look) -> str | None:
    """Why an image is taken for a label map."""
    counts = [count for count in look.values if count is not None]
    if len(counts) == len(look.values) and all(1 < count <= FEW_VALUES for count in counts):
        return f"The image has {max(counts)} different values: it is a label map."
    if look.flat and min(look.flat) > FLAT:
        return f"Of neighbouring voxels {100 * min(look.flat):.0f} % are equal: the image is a label map."
    return None


def _flat(channel_IJK: np.ndarray) -> float:
    """Share of equal ones among neighbours along the longest axis, neither of the commonest value; 0 if these are few."""
    starts = [max(0, (size - BLOCK) // 2) for size in channel_IJK.shape]
    block = channel_IJK[tuple(slice(start, start + BLOCK) for start in starts)]
    values, counts = np.unique(block, return_counts=True)
    block = np.moveaxis(block, int(np.argmax(block.shape)), 0)
    one, other = block[1:], block[:-1]
    both = (one != values[counts.argmax()]) & (other != values[counts.argmax()])
    pairs = int(np.count_nonzero(both))
    return float(np.count_nonzero((one == other) & both) / pairs) if pairs >= FEW_VALUES else 0.0


def _channels(space: SpacePlan, domain: Domain | None, prepared: Prepared) -> list[Difference]:
    missing = [name for name, there in zip(space.channels, prepared.present.tolist(), strict=True) if not there]
    unheard = [name for name in missing if domain is not None and name not in domain.absent]
    found = []
    if unheard:
        text = f"The scan lacks {', '.join(unheard)}, which every training scan had."
        found.append(Difference(text, True, "Give all channels."))
    if others := [name for name in missing if name not in unheard]:
        found.append(Difference(f"The scan lacks {', '.join(others)}.", False))
    return found


def _voxels(space: SpacePlan, domain: Domain, prepared: Prepared) -> list[Difference]:
    found = []
    for axis, step in enumerate(spacing_of(prepared.native.ras()[1])):
        low, high = domain.spacing[axis]
        times = max(step / high, low / step)
        if times > SAID and space.spacing[axis] is not None:
            text = f"Voxels are {step:.3g} mm {AXES[axis]}, those of the training scans {shown_range(low, high)} mm."
            found.append(Difference(text, times > REFUSED, "Give scans of a like resolution."))
    return found


def _extent(space: SpacePlan, domain: Domain, prepared: Prepared) -> list[Difference]:
    found = []
    for axis, (size, step) in enumerate(zip(prepared.shape, prepared.spacing, strict=True)):
        low, high = domain.extent[axis]
        mm = size * step
        if max(mm / high, low / mm) > EXTENT:
            what = "The brain" if space.foreground == "brain" else "What is seen"
            text = f"{what} is {mm:.0f} mm {AXES[axis]}, in the training scans {shown_range(low, high)} mm."
            found.append(Difference(text, False))
    return found


def _cut(
    domain: Domain, labels_IJK: np.ndarray, prepared: Prepared, names: Mapping[int, str], only: int | None = None
) -> list[Difference]:
    found = []
    for label, reached in sides_reached(labels_IJK, prepared.native).items():
        key = label if only is None else only
        new = [side for side in reached if side not in domain.reached.get(key, ())]
        if new:
            sides = " and ".join(filter(None, (", ".join(new[:-1]), new[-1])))
            where = f"{named(names, key)} reaches the {sides} edge of the image"
            text = f"{where}, as in no training scan: it may be cut off."
            found.append(Difference(text, False))
    return found
