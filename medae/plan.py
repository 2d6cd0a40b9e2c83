"""The Plan: space, network and sampling, as YAML that a person can read and edit, each choice beside its reason.

``space`` and ``network`` travel with an encoder; ``sampling`` belongs to one training.
All spatial tuples are in the order of the oriented array's axes I, J, K (right, anterior, superior), or, when
``spatial_dims`` is 2, of the two axes that remain when ``slice_axis`` is taken out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from medae.commented import commented_yaml
from medae.config import Config, load, to_dict


class CTWindow(Config):
    """Clip to [lower, upper] HU, then subtract ``mean`` and divide by ``std`` (HU)."""

    kind: Literal["ct_window"] = "ct_window"
    lower: float = -1000.0
    upper: float = 1000.0
    mean: float = 0.0
    std: float = Field(default=500.0, gt=0)


class ZScore(Config):
    """(x - mean) / standard deviation inside the foreground of each image, after clipping to percentiles."""

    kind: Literal["zscore"] = "zscore"
    lower_percentile: float = 0.5
    upper_percentile: float = 99.5


class RobustZ(Config):
    """(x - median) / (1.4826 * median absolute deviation) inside the foreground of each image, then clipped."""

    kind: Literal["robust_z"] = "robust_z"
    clip: float = Field(default=10.0, gt=0)


class Percentile(Config):
    """x over a percentile of the foreground of each image: air stays 0, as in much published work on MR; nothing is clipped.

    percentile: of the intensities inside the foreground. Images then lie between 0 and about 1, where the other schemes give
    z-scores: SSIM and VGG, which take -3 to 3 for black to white, see little of it, and there is no dark side.
    """

    kind: Literal["percentile"] = "percentile"
    percentile: float = Field(default=99.0, gt=0, le=100)


IntensityScheme = Annotated[CTWindow | ZScore | RobustZ | Percentile, Field(discriminator="kind")]
Millimetres = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Foreground = Literal["all", "nonzero", "head", "brain"]
BrainFinder = Literal["none", "medae", "deepbet"]


class SpacePlan(Config):
    """The space that images are brought into.

    orientation: of the array's axes I, J, K: right, anterior, superior, as near as turning by right angles comes to it.
    spacing: mm along I, J, K; None keeps each image's own spacing along that axis (unknown slice spacing).
    foreground: the voxels that normalisation, sampling and scoring count: all, non-zero ones, a simple head mask, or the
    brain. brain_from: targets (masks or whole-brain parcellations) whose voxels above 0, holes filled, are the brain; the
    first that a case has is taken. brain_extraction: what finds the brain of a case without such a target: ``medae`` (its
    own network, for MR), ``deepbet`` (of the package of that name, for MR) or nothing: then the case is refused.
    bias_correction: ``n4`` evens out the slow shading of MR inside the foreground.
    channels: names of the images. slices: that the network sees at a time, of a plan of slices: the one that it answers for,
    and its neighbours on both sides as further channels (2.5D).
    """

    spatial_dims: Literal[2, 3] = 3
    slice_axis: Literal[0, 1, 2] | None = None
    orientation: Literal["RAS"] = "RAS"
    spacing: tuple[Millimetres | None, Millimetres | None, Millimetres | None] = (1.0, 1.0, 1.0)
    intensity: IntensityScheme = ZScore()
    foreground: Foreground = "nonzero"
    brain_from: tuple[str, ...] = ("brain_mask",)
    brain_extraction: BrainFinder = "none"
    bias_correction: Literal["none", "n4"] = "none"
    channels: tuple[str, ...] = ("image",)
    slices: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _slices(self) -> SpacePlan:
        if (self.spatial_dims == 2) != (self.slice_axis is not None):
            raise ValueError("slice_axis is needed for 2 spatial dimensions and must be absent for 3")
        if self.slices % 2 == 0:
            raise ValueError("slices is odd: the slice itself, and as many on both sides")
        if self.slices > 1 and self.slice_axis is None:
            raise ValueError("slices are neighbours in a plan of slices (spatial_dims: 2); volumes have them anyway")
        if self.bias_correction != "none" and self.intensity.kind == "ct_window":
            raise ValueError("bias_correction is for MR; a CT window needs the scanner's own HU")
        return self

    @property
    def inputs(self) -> tuple[str, ...]:
        """The network's input channels, slice by slice: those of the slice itself have the names of its images."""
        beside = self.slices // 2
        places = range(-beside, beside + 1)
        return tuple(name if not place else f"{name} {place:+d}" for place in places for name in self.channels)


class NetworkPlan(Config):
    """The encoder's shape. One entry a level, the first is the finest.

    strides[0] is the stem's: all ones for a plain stem, the factor of the space-to-depth stem otherwise.
    """

    stem: Literal["plain", "space_to_depth"] = "plain"
    widths: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]
    kernels: tuple[tuple[int, ...], ...]
    downsampling: Literal["strided", "maxpool"] = "strided"

    @model_validator(mode="after")
    def _levels(self) -> NetworkPlan:
        if not len(self.widths) == len(self.strides) == len(self.kernels) > 0:
            raise ValueError("widths, strides and kernels need one entry a level")
        return self


class SamplingPlan(Config):
    """Patch (voxels of the plan's spacing, along the spatial dimensions) and batch of one training."""

    patch: tuple[int, ...]
    batch: int = Field(default=4, ge=1)


class Plan(Config):
    """How medae treats a data set. reasons: by key (``space.spacing``), why it was chosen. notes: what to look at."""

    space: SpacePlan
    network: NetworkPlan
    sampling: SamplingPlan
    reasons: dict[str, str] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _dimensions(self) -> Plan:
        dims = self.space.spatial_dims
        shapes = [*self.network.strides, *self.network.kernels, self.sampling.patch]
        if any(len(shape) != dims for shape in shapes):
            raise ValueError(f"strides, kernels and patch need {dims} entries for {dims} spatial dimensions")
        return self

    @property
    def spatial_spacing(self) -> tuple[float | None, ...]:
        """mm along the spatial dimensions; None where each image keeps its own."""
        return tuple(step for axis, step in enumerate(self.space.spacing) if axis != self.space.slice_axis)

    def choices(self) -> dict[str, Any]:
        """``space``, ``network`` and ``sampling`` in plain JSON types: all that decides, reasons and notes left out."""
        return {name: to_dict(getattr(self, name)) for name in ("space", "network", "sampling")}

    def rows(self) -> list[tuple[str, str, str]]:
        """For a table: key, value and reason of every choice."""
        found = [(f"{part}.{key}", value) for part, keys in self.choices().items() for key, value in keys.items()]
        return [(name, _readable(value), self.reasons.get(name, "")) for name, value in found]

    def as_yaml(self) -> str:
        """The plan as YAML that a person can read and edit: reasons and notes are comments, so `read` gives none."""
        return commented_yaml(self.choices(), self.reasons, self.notes)

    @classmethod
    def read(cls, path: Path) -> Plan:
        """Read a plan. Raises ConfigError that names every key that does not fit."""
        return load(path, cls)


def _readable(value: Any) -> str:
    """For a table. Within a list, None is an axis that keeps what each image has; alone, nothing was chosen."""
    if value is None:
        return "none"
    if isinstance(value, dict):
        return f"{value['kind']} ({', '.join(f'{key} {item}' for key, item in value.items() if key != 'kind')})"
    return str(value).replace("None", "own").replace("[", "(").replace("]", ")").replace("'", "")
