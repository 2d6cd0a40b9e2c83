"""The rules that make a plan, each with its reason. A hint overrules the rule of the same name."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from medae.config import validate
from medae.data.case import Manifest
from medae.errors import ConfigError
from medae.plan import Plan, SpacePlan
from medae.planning.facts import Fingerprint
from medae.planning.fingerprint import fingerprint
from medae.planning.hints import Choice, PlanHints, or_default
from medae.planning.memory import Estimator, bytes_of, in_words
from medae.planning.network import Draft, median_sizes, network_reasons
from medae.planning.notes import notes_on
from medae.planning.sampling import by_memory, by_voxels, sampling
from medae.planning.space import Axis, dimensions, foreground, intensity, slice_axis, spacing

Progress = Callable[[int, int], None]


def make_plan(
    source: Manifest | Fingerprint,
    estimator: Estimator | None = None,
    progress: Progress | None = None,
    targets: Collection[str] | None = None,
    **hints: Any,
) -> Plan:
    """The plan for a data set, with the reason of every choice. hints: the fields of `PlanHints`.

    estimator: of the memory of a training step; needed for the hint ``memory``, else its estimate is stated. progress: see
    `fingerprint`. targets: whose labels the training uses, for the plan's notes; None for all.
    Raises ConfigError for hints that do not fit each other, the data or the memory, DataError for files that cannot be read.
    """
    known = validate(PlanHints, hints, where="plan hints")
    found = fingerprint(source, progress=progress) if isinstance(source, Manifest) else source
    space, reasons = _space(found, known)
    axes = [axis for axis in range(3) if axis != space.slice_axis]
    pitch = [space.spacing[axis] for axis in axes]
    sizes = median_sizes(found, space.spacing, axes, space.foreground)

    def whole(made: Draft, batch: int) -> Plan:
        return Plan(space=space, network=made.network, sampling=sampling(made, batch))

    if known.memory is None:
        patch, batch = by_voxels(sizes, pitch, known)
    elif estimator is None:
        raise ConfigError("A memory target needs an estimator.", where="memory", remedy="Pass one to make_plan.")
    else:
        size = estimator.bytes
        patch, batch = by_memory(sizes, pitch, known, lambda made, count: size(whole(made, count)))
    plan = whole(patch.value, batch.value)
    reasons |= {f"network.{key}": reason for key, reason in network_reasons(plan.network, pitch, known).items()}
    reasons |= {"sampling.patch": patch.reason, "sampling.batch": batch.reason}
    if estimator is not None:
        reasons["sampling.batch"] += f"; {_estimate(plan, estimator, known)}"
    return plan.model_copy(update={"reasons": reasons, "notes": notes_on(found, plan, targets)})


def _space(found: Fingerprint, hints: PlanHints) -> tuple[SpacePlan, dict[str, str]]:
    dims = dimensions(found, hints)
    across: Choice[Axis | None] = Choice(None, "none: volumes, not slices")
    if dims.value == 2:
        across = Choice(*slice_axis(found, hints))
    steps, scheme, rule = spacing(found, hints, across.value), intensity(found, hints), foreground(found, hints)
    default = SpacePlan()
    brain_from = or_default(hints.brain_from, default.brain_from, "targets that hold the brain, for foreground: brain")
    extraction = or_default(hints.brain_extraction, default.brain_extraction, "or medae, deepbet: for cases without one")
    bias = or_default(hints.bias_correction, default.bias_correction, "or n4, against the shading of MR: 10 to 40 s a scan")
    slices = or_default(hints.slices, default.slices, "of 2D: or 3, 5, ... with the neighbours as further channels")
    content = {
        "spatial_dims": dims.value,
        "slice_axis": across.value,
        "slices": slices.value,
        "spacing": steps.value,
        "intensity": scheme.value,
        "foreground": rule.value,
        "brain_from": brain_from.value,
        "brain_extraction": extraction.value,
        "bias_correction": bias.value,
        "channels": found.channels,
    }
    space = validate(SpacePlan, content, where="plan")
    stored = ", ".join(sorted(set(found.orientations)))
    reasons = {
        "spatial_dims": dims.reason,
        "slice_axis": across.reason,
        "slices": slices.reason,
        "orientation": f"fixed: right, anterior, superior; stored as {stored or 'unknown'}",
        "spacing": steps.reason,
        "intensity": scheme.reason,
        "foreground": rule.reason,
        "brain_from": brain_from.reason,
        "brain_extraction": extraction.reason,
        "bias_correction": bias.reason,
        "channels": "as the data set declares them",
    }
    return space, {f"space.{key}": reason for key, reason in reasons.items()}


def _estimate(plan: Plan, estimator: Estimator, hints: PlanHints) -> str:
    of = "" if hints.memory is None else f" of {in_words(bytes_of(hints.memory))}"
    return f"{estimator.subject} is estimated at {in_words(estimator.bytes(plan))}{of}"
