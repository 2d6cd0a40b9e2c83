"""``medae plan``, and how a stage comes to its plan."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medae.config import apply_overrides, to_dict, validate
from medae.data.case import Manifest
from medae.errors import ConfigError
from medae.plan import NetworkPlan, Plan, SamplingPlan, SpacePlan
from medae.planning.rules import PlanHints, make_plan
from pipelines.console import Screen, shown
from pipelines.data import open_folder
from pipelines.files import write_text


class PlanChoice(PlanHints):
    """A plan file, or hints for the rules that make a plan."""

    file: Path | None = None

    def make(self, manifest: Manifest, screen: Screen) -> Plan:
        """The plan for these cases."""
        if self.file is not None:
            return Plan.read(self.file)
        screen.note(f"Planning from the fingerprint of {len(manifest.cases)} cases")
        hints = {name: getattr(self, name) for name in PlanHints.model_fields}
        return make_plan(manifest, **{name: value for name, value in hints.items() if value is not None})

    def kept(self, pretrained: Plan, own: Plan, screen: Screen) -> Plan:
        """The plan of a pretrained encoder with sampling for other data; says what the data's own plan differs in.

        Raises ConfigError if the data has another number of spatial dimensions.
        """
        if pretrained.space.spatial_dims != own.space.spatial_dims:
            raise ConfigError(
                f"The encoder works in {pretrained.space.spatial_dims} dimensions, the plan for this data in "
                f"{own.space.spatial_dims}.",
                where="plan.spatial_dims",
                remedy="Set plan.spatial_dims (and plan.slice_axis) to the encoder's, or use another encoder.",
            )
        space = pretrained.space.model_copy(update={"channels": own.space.channels})
        for part, mine, its in (("space", space, own.space), ("network", pretrained.network, own.network)):
            for key, value in to_dict(mine).items():
                if value != (other := to_dict(its)[key]):
                    screen.note(f"Kept from the encoder: {part}.{key} {value}; this data's own plan would have {other}.")
        reasons = {key: reason for key, reason in own.reasons.items() if key.startswith("sampling.")}
        reasons |= {
            f"{part}.{key}": "kept from the encoder" for part in ("space", "network") for key in to_dict(getattr(own, part))
        }
        return Plan(space=space, network=pretrained.network, sampling=own.sampling, reasons=reasons)

    def placeholder(self) -> Plan:
        """A plan of the right kind before any scan is read, to try a network's configuration against."""
        if self.file is not None:
            return Plan.read(self.file)
        dims = self.spatial_dims or (3 if self.slice_axis is None else 2)
        levels = len(self.widths or ()) or self.levels or 3
        halved, whole = (2,) * dims, (1,) * dims
        stem = self.stem or "plain"
        network = NetworkPlan(
            stem=stem,
            widths=self.widths or (8,) * levels,
            strides=(halved if stem == "space_to_depth" else whole, *(halved,) * (levels - 1)),
            kernels=((3,) * dims,) * levels,
            downsampling=self.downsampling or "strided",
        )
        space = SpacePlan(spatial_dims=3 if dims == 3 else 2, slice_axis=None if dims == 3 else self.slice_axis or 2)
        return Plan(space=space, network=network, sampling=SamplingPlan(patch=self.patch or (64,) * dims))


def run(data: Path, format: str, overrides: Sequence[str], out: Path, as_json: bool) -> Plan:
    """Plan for a folder; writes YAML."""
    screen = Screen(as_json)
    choice = validate(PlanChoice, apply_overrides({}, overrides), where="--set")
    plan = choice.make(open_folder(data, format), screen)
    write_text(out, plan.as_yaml())
    screen.table("Plan", ["", "choice", "reason"], plan.rows())
    screen.say(f"Plan: {shown(out)} (edit it, and name it in a configuration as plan.file)")
    screen.json(to_dict(plan))
    return plan
