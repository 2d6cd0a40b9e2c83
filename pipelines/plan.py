"""``medae plan``, and how a stage comes to its plan."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import model_validator

from medae.config import apply_overrides, to_dict, validate
from medae.data.case import Manifest
from medae.data.digests import reporting
from medae.errors import ConfigError
from medae.plan import NetworkPlan, Plan, SamplingPlan, SpacePlan
from medae.planning.facts import Fingerprint
from medae.planning.fingerprint import fingerprint
from medae.planning.hints import PlanHints
from medae.planning.memory import Estimator
from medae.planning.rules import make_plan
from medae.planning.strides import Shapes, total_strides
from medae.training.precision import Precision
from pipelines.console import Screen, shown
from pipelines.data import checked, open_folder
from pipelines.files import write_text
from pipelines.memory import default_estimator

FEWEST_VOXELS = 4
"""Along a pooled axis, at the coarsest level."""


class PlanChoice(PlanHints):
    """A plan file, or hints for the rules that make a plan."""

    file: Path | None = None

    @model_validator(mode="after")
    def _one_way(self) -> PlanChoice:
        hints = sorted(name for name in PlanHints.model_fields if getattr(self, name) is not None)
        if self.file is not None and hints:
            raise ValueError(f"a plan file decides everything: leave out file, or {', '.join(hints)}")
        return self

    def hints(self) -> dict[str, Any]:
        """What the user fixes."""
        return {name: value for name in PlanHints.model_fields if (value := getattr(self, name)) is not None}

    def decisive(self) -> dict[str, Any]:
        """The hints, or what the file says: an edited file is another plan."""
        if self.file is None:
            return to_dict(self)
        return Plan.read(self.file).choices()

    def make(
        self,
        manifest: Manifest,
        screen: Screen,
        estimator: Estimator | None = None,
        targets: Collection[str] | None = None,
    ) -> Plan:
        """The plan for these cases. estimator: of the training that it is for; asked only if a memory target is set.
        targets: whose labels that training uses; None for all."""
        if self.file is not None:
            return _from_file(self.file)
        plan = make_plan(_read(manifest, screen), estimator if self.memory else None, targets=targets, **self.hints())
        for note in plan.notes:
            screen.note(note)
        return plan

    def around(self, pretrained: Plan, manifest: Manifest, screen: Screen, estimator: Estimator | None = None) -> Plan:
        """The space and network of a pretrained encoder, with patch and batch for these cases in that space.

        Says what the cases' own plan would have been, and what was asked for in vain. Raises ConfigError if that plan has
        another number of dimensions.
        """
        if self.file is not None:
            own = _from_file(self.file)
            fitted = own
            _same_dimensions(pretrained, own)
        else:
            found = _read(manifest, screen)
            own = make_plan(found, **{name: value for name, value in self.hints().items() if name != "memory"})
            _same_dimensions(pretrained, own)
            space = pretrained.space
            fixed: dict[str, Any] = {
                "spatial_dims": space.spatial_dims,
                "slice_axis": space.slice_axis,
                "slices": space.slices,
                "spacing": space.spacing,
            }
            fixed |= {"intensity": space.intensity, "foreground": space.foreground}
            fixed |= {name: value for name, value in self.hints().items() if name in ("patch", "batch", "memory")}
            inside = None
            if self.memory is not None and estimator is not None:
                size = estimator.bytes
                inside = replace(estimator, bytes=lambda plan: size(self._within(pretrained, plan)))
            fitted = make_plan(found, inside, **{name: value for name, value in fixed.items() if value is not None})
        brain = self._brain(own)
        space = pretrained.space.model_copy(update={"channels": own.space.channels, **brain})
        for part, kept, other in (("space", space, own.space), ("network", pretrained.network, own.network)):
            for key, value in to_dict(kept).items():
                instead = to_dict(other)[key]
                if value != instead and key in self.hints():
                    screen.warn(
                        f"plan.{key} {instead} is not used: the encoder has {part}.{key} {value}. Pretrain one with it, or "
                        "train without an encoder (--encoder none)."
                    )
                elif value != instead:
                    screen.note(f"Kept from the encoder: {part}.{key} {value}; this data's own plan would have {instead}.")
        if self.levels is not None and self.levels != len(pretrained.network.widths):
            screen.warn(f"plan.levels {self.levels} is not used: the encoder has {len(pretrained.network.widths)} levels.")
        sampling_plan = self._within(pretrained, fitted).sampling
        reasons = {key: reason for key, reason in fitted.reasons.items() if key.startswith("sampling.")}
        for part, kept in (("space", space), ("network", pretrained.network)):
            reasons |= {f"{part}.{key}": "kept from the encoder" for key in to_dict(kept)}
        reasons |= {f"space.{key}": own.reasons[f"space.{key}"] for key in brain}
        return Plan(space=space, network=pretrained.network, sampling=sampling_plan, reasons=reasons, notes=fitted.notes)

    def _brain(self, own: Plan) -> dict[str, Any]:
        """Where the user says that the brains of these cases come from, in hints or in a plan file for brains."""
        if self.file is not None and own.space.foreground != "brain":
            return {}
        keys = ("brain_from", "brain_extraction")
        return {key: getattr(own.space, key) for key in keys if self.file is not None or getattr(self, key) is not None}

    def _within(self, pretrained: Plan, plan: Plan) -> Plan:
        """A plan with a pretrained encoder's network, and its patch in whole cells of that, unless it was given."""
        fixed = self.file is not None or self.patch is not None
        patch = plan.sampling.patch if fixed else _whole_cells(plan.sampling.patch, pretrained.network.strides)
        sampling = plan.sampling.model_copy(update={"patch": patch})
        return plan.model_copy(update={"network": pretrained.network, "sampling": sampling})

    def placeholder(self) -> Plan:
        """A plan of the right kind before any scan is read: of the kinds that it may be, the likeliest."""
        return next(iter(self.placeholders()))

    def placeholders(self) -> Iterator[Plan]:
        """Plans of all kinds that it may become, before any scan is read: how many dimensions and levels is often open."""
        if self.file is not None:
            yield Plan.read(self.file)
            return
        given_dims = self.spatial_dims or (None if self.slice_axis is None else 2)
        given_levels = len(self.widths or ()) or self.levels
        for dims in (3, 2) if given_dims is None else (given_dims,):
            for levels in (3, 2, 4, 5, 6) if given_levels is None else (given_levels,):
                yield self._placeholder(dims, levels)

    def _placeholder(self, dims: int, levels: int) -> Plan:
        halved, whole = (2,) * dims, (1,) * dims
        stem = self.stem or "plain"
        network = NetworkPlan(
            stem=stem,
            widths=self.widths or (8,) * levels,
            strides=(halved if stem == "space_to_depth" else whole, *(halved,) * (levels - 1)),
            kernels=((self.kernel or 3,) * dims,) * levels,
            downsampling=self.downsampling or "strided",
        )
        patch = self.patch if self.patch is not None and len(self.patch) == dims else (64,) * dims
        space = SpacePlan(spatial_dims=3 if dims == 3 else 2, slice_axis=None if dims == 3 else self.slice_axis or 2)
        return Plan(space=space, network=network, sampling=SamplingPlan(patch=patch))


def _same_dimensions(pretrained: Plan, own: Plan) -> None:
    theirs, ours = pretrained.space.spatial_dims, own.space.spatial_dims
    if theirs != ours:
        raise ConfigError(
            f"The encoder works in {theirs} dimensions, the plan for this data in {ours}.",
            where="plan.spatial_dims",
            remedy=f"Use an encoder that was pretrained in {ours} dimensions, or set plan.spatial_dims to {theirs}"
            + (", and a plan.slice_axis." if theirs == 2 else "."),
        )


def _whole_cells(patch: Sequence[int], strides: Shapes) -> tuple[int, ...]:
    """The patch up to whole cells of the bottleneck, at least FEWEST_VOXELS of them along a pooled axis."""
    sizes = []
    for size, total in zip(patch, total_strides(strides), strict=True):
        cells = math.ceil(size / total)
        sizes.append((cells if total == 1 else max(cells, FEWEST_VOXELS)) * total)
    return tuple(sizes)


def _from_file(path: Path) -> Plan:
    """The plan in a file, which is the reason of every choice."""
    plan = Plan.read(path)
    return plan.model_copy(update={"reasons": {key: "as in the plan file" for key, _, _ in plan.rows()} | plan.reasons})


def _read(manifest: Manifest, screen: Screen) -> Fingerprint:
    with screen.progress(f"Fingerprint of {len(manifest.cases)} cases") as report:
        return fingerprint(manifest, progress=report)


def run(
    data: Path,
    format: str,
    overrides: Sequence[str],
    out: Path,
    as_json: bool,
    memory: str | None = None,
    precision: Precision = "fp32",
) -> Plan:
    """Plan for a folder; writes YAML, and the fingerprint beside it. memory: that a training step may take, such as 8G.

    precision: in which such a step would be computed. Overrides are hints, or keys of the source: ``data.subject=…``.
    Cases with an error are left out and named. Raises ConfigError if ``out`` is a folder.
    """
    beside = out.with_name(f"{out.stem}.fingerprint.yaml") if out.name else out
    for file in (out, beside):
        if file.is_dir():
            raise ConfigError("The plan cannot be written: this is a folder.", where=file, remedy="Name a file in --out.")
    screen = Screen(as_json)
    content = apply_overrides({}, overrides)
    source = content.pop("data", {})
    choice = validate(PlanChoice, content if memory is None else {**content, "memory": memory}, where="--set")
    with screen.progress("Reading files") as report, reporting(report):
        manifest = open_folder(data, format, source)
    manifest = checked(manifest, data, screen).usable
    found = _read(manifest, screen)
    plan = (
        _from_file(choice.file) if choice.file else make_plan(found, default_estimator(found, precision), **choice.hints())
    )
    write_text(out, plan.as_yaml())
    write_text(beside, found.as_yaml())
    screen.table("Fingerprint", ["", ""], found.rows(manifest.labels))
    screen.table("Plan", ["", "choice", "reason"], plan.rows())
    for note in plan.notes:
        screen.say(f"Note: {note}")
    screen.say(f"Plan: {shown(out)} (edit it, and name it in a configuration as plan.file); fingerprint: {shown(beside)}")
    screen.json({"stage": "plan", "metrics": {}, **to_dict(plan), "fingerprint": to_dict(found)})
    return plan
