"""Encoder weights from a stored model into another network, and the report of what came of each tensor.

The encoders' configurations are compared before their tensors: a strided encoder fits a max-pooling one tensor by tensor and
is still another function. Tensors of a level that computes something else than it did are ``adapted``, never ``loaded``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from rich.table import Table
from torch import Tensor

from medae.artifact import Artifact
from medae.config import Config, to_dict
from medae.errors import TransferError
from medae.models.base import Network
from medae.models.encoder import EncoderConfig, adapt_stem, stem_parameters
from medae.plan import SpacePlan

Status = Literal["loaded", "adapted", "random", "rejected"]
ENCODER, DECODER = "encoder.", "decoder."
HEAD, FINEST_HEAD = "head.", "head.0."
"""Of an autoencoder; of a segmenter the one that reads the finest level of its decoder."""

# What the whole encoder computes hangs on these, in the encoder's configuration and in the space of its input.
WHOLE = ("spatial_dims", "stem", "block", "blocks", "norm", "activation")
SPACE = ("spatial_dims", "slice_axis", "spacing", "intensity", "foreground", "bias_correction", "channels", "slices")
# These have an entry a level: levels finer than the first that differs compute what they did.
BY_LEVEL = ("widths", "strides", "kernels")


class TransferConfig(Config):
    """decoder: move the decoder's weights too. head: also the head that has learnt to find drawn lesions
    (``network.lesion_head``), as that of the one foreground class, so that fine-tuning begins with what finds them. minimum:
    share of the encoder's parameters that have to be moved."""

    decoder: bool = False
    head: bool = False
    minimum: float = Field(default=0.5, ge=0, le=1)

    @model_validator(mode="after")
    def _fits(self) -> TransferConfig:
        if self.head and not self.decoder:
            raise ValueError("head: it reads what the decoder makes, so move that too (decoder: true)")
        return self


@dataclass(frozen=True)
class Row:
    """What came of one tensor. A shape is None where the network has no such tensor."""

    name: str
    source_shape: tuple[int, ...] | None
    target_shape: tuple[int, ...] | None
    status: Status
    reason: str


@dataclass(frozen=True)
class Difference:
    """A setting of the two encoders, or of their input's space, that differs; ``level`` is the first that it changes."""

    key: str
    source: str
    target: str
    level: int = 0

    def __str__(self) -> str:
        return f"{self.key}: {self.source} -> {self.target}"


@dataclass(frozen=True)
class TransferReport:
    """share: of the receiving encoder's parameters (numbers, not tensors) that were loaded or adapted."""

    rows: tuple[Row, ...]
    share: float
    differences: tuple[Difference, ...]

    def count(self, status: Status) -> int:
        """Number of tensors with that status."""
        return sum(row.status == status for row in self.rows)

    @property
    def is_plain(self) -> bool:
        """Whether the configurations agree, and every tensor was loaded as it is."""
        return not self.differences and self.count("loaded") == len(self.rows)

    @property
    def summary(self) -> str:
        """One line: share and counts."""
        counts = ", ".join(f"{self.count(status)} {status}" for status in ("loaded", "adapted", "random", "rejected"))
        return f"{self.share:.1%} of the encoder's parameters moved; tensors: {counts}"

    def to_json(self) -> str:
        """The whole report."""
        content = {
            "share": self.share,
            "differences": [asdict(difference) for difference in self.differences],
            "tensors": [asdict(row) for row in self.rows],
        }
        return json.dumps(content, indent=2)

    def table(self) -> Table:
        """The report for a console, one row a tensor, differences of configuration below."""
        notes = "\n".join(map(str, self.differences))
        table = Table(title=self.summary, caption=f"Differences\n{notes}" if notes else "The configurations agree.")
        for column in ("tensor", "source", "here", "status", "reason"):
            table.add_column(column)
        for row in self.rows:
            table.add_row(row.name, _shape(row.source_shape), _shape(row.target_shape), row.status, row.reason)
        return table


def transfer(source: Artifact, model: Network, target_space: SpacePlan, config: TransferConfig) -> TransferReport:
    """Move the weights of ``source``'s encoder (and decoder) into ``model``, in place.

    target_space: of the images that ``model`` will see. The stem's input channels are matched by name, whatever their order;
    one that the source has not gets the mean over the source's (see ``adapt_stem``).
    Tensors that are broken (not finite, constant where weights are) are rejected, and stay as they were in ``model``.
    With ``config.head`` the logit of a lesion, w, becomes the logits -w/2 and w/2 of background and foreground: a softmax of
    these is the sigmoid of that.
    Raises TransferError, and changes nothing, if less than ``config.minimum`` of the encoder's parameters would be moved, or
    if there is no head of lesions, if there are more classes, or if a tensor of the head or the decoder does not fit.
    """
    if source.meta.network.kind in ("ensemble", "autoencoder_ensemble"):
        raise TransferError(
            "The source is an ensemble: it has several encoders, and none is the one to take.",
            where=source.folder,
            remedy="Give a model that was trained alone.",
        )
    differences = compare(source, model, target_space, decoder=config.decoder)
    channels = (source.meta.plan.space.inputs, target_space.inputs)
    tensors = source.tensors()
    own = model.state_dict()
    parts = (ENCODER, DECODER) if config.decoder else (ENCODER,)
    rows: list[Row] = []
    moved: dict[str, Tensor] = {}
    for name, target in own.items():
        if name.startswith(parts):
            row, value = _move(name, tensors.get(name), target, channels, model.encoder.config, differences)
            rows.append(row)
            if value is not None:
                moved[name] = value.to(target.dtype)
    if config.head:
        heads = _heads(source, model, tensors)
        if left := [row.name for row in rows if row.name.startswith(DECODER) and row.source_shape != row.target_shape]:
            raise _no_head(source, f"{left[0]} and {len(left) - 1} more" if len(left) > 1 else left[0])
        rows += [row for row, _ in heads]
        moved |= {row.name: value for row, value in heads}
    rows += [
        Row(name, tuple(tensor.shape), None, "rejected", "the receiving network has no such tensor")
        for name, tensor in tensors.items()
        if name.startswith(parts) and name not in own
    ]
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters() if name.startswith(ENCODER)}
    share = sum(size for name, size in sizes.items() if name in moved) / sum(sizes.values())
    report = TransferReport(tuple(rows), share, differences)
    if share < config.minimum:
        raise TransferError(_refusal(report, config), where=source.folder, remedy=_remedy(report))
    model.load_state_dict(moved, strict=False)
    return report


def _heads(source: Artifact, model: Network, tensors: Mapping[str, Tensor]) -> list[tuple[Row, Tensor]]:
    """What the head of lesions becomes in a segmenter of two classes, by tensor."""
    if not getattr(source.meta.network, "lesion_head", False):
        raise TransferError(
            "The source has no head of lesions to be moved.",
            where=source.folder,
            remedy="Pretrain with objective.kind: lesions and network.lesion_head: true, or leave transfer.head out.",
        )
    own = model.state_dict()
    names = [name for name in own if name.startswith(FINEST_HEAD)]
    if not names or getattr(model.config, "classes", None) != 2:
        raise TransferError(
            "The head of lesions can become that of a U-Net's or SegNet's one foreground class only.",
            where=f"network: {model.config.kind} of {getattr(model.config, 'classes', 'no')} classes",
            remedy="Leave transfer.head out, or learn one structure (data.structures).",
        )
    found = []
    for name in names:
        lesion, target = tensors[HEAD + name.removeprefix(FINEST_HEAD)][-1:], own[name]
        broken = _broken(name, lesion) or ("" if lesion.shape[1:] == target.shape[1:] else "the shapes differ")
        if broken:
            raise _no_head(source, f"{name}: {broken}")
        value = torch.cat((-lesion / 2, lesion / 2)).to(target.dtype)
        shapes = tuple(lesion.shape), tuple(target.shape)
        found.append((Row(name, *shapes, "adapted", "the head of lesions, as that of the foreground"), value))
    return found


def _no_head(source: Artifact, why: str) -> TransferError:
    return TransferError(
        f"The head of lesions reads what the whole decoder makes, and not all of both can be moved ({why}).",
        where=source.folder,
        remedy="Use the decoder that was pretrained (network.decoder: skips, width), or leave transfer.head out.",
    )


def compare(source: Artifact, model: Network, target_space: SpacePlan, *, decoder: bool = False) -> tuple[Difference, ...]:
    """What differs between two encoders, the spaces of their inputs, and their decoders if asked; the finest level first."""
    theirs, ours = source.meta.network.encoder, model.encoder.config
    found = [_difference(f"encoder.{key}", getattr(theirs, key), getattr(ours, key)) for key in WHOLE]
    found.append(_difference("encoder.downsampling", theirs.downsampling, ours.downsampling, level=1))
    for key in BY_LEVEL:
        one, two = getattr(theirs, key), getattr(ours, key)
        # Where one encoder merely has more levels, those that both have compute the same.
        first = next((i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))
        found.append(_difference(f"encoder.{key}", one, two, first))
    theirs_space, ours_space = to_dict(source.meta.plan.space), to_dict(target_space)
    found += [_difference(f"space.{key}", theirs_space[key], ours_space[key]) for key in SPACE]
    if decoder:
        one, two = (to_dict(network).get("decoder", {}) for network in (source.meta.network, model.config))
        found += [_difference(f"decoder.{key}", one[key], two[key], ours.levels) for key in one.keys() & two.keys()]
    return tuple(sorted((row for row in found if row is not None), key=lambda row: (row.level, row.key)))


def _difference(key: str, source: Any, target: Any, level: int = 0) -> Difference | None:
    one, two = (value if isinstance(value, str) else json.dumps(value) for value in (source, target))
    return None if source == target else Difference(key, one, two, level)


def _move(
    name: str,
    value: Tensor | None,
    target: Tensor,
    inputs: tuple[Sequence[str], Sequence[str]],
    own: EncoderConfig,
    changes: Sequence[Difference],
) -> tuple[Row, Tensor | None]:
    """The row of a tensor and what to put into it (None: leave it). inputs: channels of source and network."""
    shape = tuple(target.shape)
    if value is None:
        return Row(name, None, shape, "random", "the source has no such tensor"), None
    found = tuple(value.shape)
    broken = _broken(name, value)
    if broken:
        return Row(name, found, shape, "rejected", broken), None
    causes = [difference.key for difference in changes if _concerns(difference, name, own)]
    reason = "differs in " + ", ".join(causes) if causes else ""
    if found != shape or (_is_stem(name, own) and tuple(inputs[0]) != tuple(inputs[1])):
        fitted, reason = _fit(name, value, target, inputs, own)
        return Row(name, found, shape, "rejected" if fitted is None else "adapted", reason), fitted
    return Row(name, found, shape, "adapted" if causes else "loaded", reason), value


def _fit(
    name: str, value: Tensor, target: Tensor, channels: tuple[Sequence[str], Sequence[str]], encoder: EncoderConfig
) -> tuple[Tensor | None, str]:
    """``value`` in the shape of ``target`` where there is a rule for it, and which rule."""
    theirs, ours = channels
    cells = math.prod(encoder.strides[0])
    if _is_stem(name, encoder) and value.shape == (len(target), len(theirs) * cells, *target.shape[2:]):
        return adapt_stem(value, theirs, ours), _matched(theirs, ours)
    if name.startswith(DECODER) and target.dim() > 1 and target.shape == (len(value), 2 * value.shape[1], *value.shape[2:]):
        # A decoder level that joins a skip has first what it saw without one, then the skip.
        joined = torch.cat((value.to(target), target[:, value.shape[1] :]), 1)
        return joined, "the half that sees the skip is left random"
    return None, "the shapes differ"


def _matched(theirs: Sequence[str], ours: Sequence[str]) -> str:
    """How the stem's channels were matched."""
    kept, new = [name for name in ours if name in theirs], [name for name in ours if name not in theirs]
    if not kept and len(theirs) == len(ours):
        return f"channels by place: {', '.join(theirs)} -> {', '.join(ours)}"
    words = [f"{', '.join(kept)} by name"] if kept else []
    words += [f"{', '.join(new)} from the mean of {', '.join(theirs)}"] if new else []
    return f"channels: {'; '.join(words)}"


def _is_stem(name: str, encoder: EncoderConfig) -> bool:
    return name in {ENCODER + parameter for parameter in stem_parameters(encoder)}


def _concerns(difference: Difference, name: str, encoder: EncoderConfig) -> bool:
    """Whether a tensor computes something else because of a difference. A decoder sees all that the encoder does."""
    if difference.key == "space.channels":
        return _is_stem(name, encoder)
    if name.startswith(DECODER):
        return True
    level = name.removeprefix(f"{ENCODER}levels.").split(".")[0]
    return not difference.key.startswith(DECODER) and int(level) >= difference.level


def _broken(name: str, value: Tensor) -> str:
    """What is wrong with a tensor that no training leaves behind; empty if nothing is."""
    if not value.is_floating_point():
        return ""
    bad = int((~torch.isfinite(value)).sum())
    if bad:
        return f"broken: {bad} of {value.numel()} values are not finite"
    if value.dim() >= 2 and value.numel() > 1 and bool((value == value.flatten()[0]).all()):
        return f"broken: all values are {value.flatten()[0].item():g}"
    if name.endswith(".weight") and value.dim() == 1 and not value.any():
        return "broken: all scales are 0"
    return ""


def _refusal(report: TransferReport, config: TransferConfig) -> str:
    failed = [row for row in report.rows if row.status in ("random", "rejected")]
    lines = [f"Too little fits: {report.summary}; at least {config.minimum:.0%} is asked for."]
    lines += [
        f"    {row.status}: {row.name} {_shape(row.source_shape)} -> {_shape(row.target_shape)}, {row.reason}"
        for row in failed[:8]
    ]
    if len(failed) > 8:
        lines.append(f"    and {len(failed) - 8} more")
    lines += [f"    differs: {difference}" for difference in report.differences]
    return "\n".join(lines)


def _remedy(report: TransferReport) -> str:
    if any(row.reason.startswith("broken") for row in report.rows):
        return "The source's weights are broken: train it again, or take an earlier one."
    return "Use the network of the source's plan, another source, or lower transfer.minimum."


def _shape(shape: tuple[int, ...] | None) -> str:
    return "-" if shape is None else "x".join(map(str, shape)) or "number"
