"""What a training step of a stage takes, for the rules that make a plan."""

from __future__ import annotations

from collections.abc import Callable

from medae.objectives.registry import ObjectiveConfig
from medae.objectives.segmentation import SegmentationConfig
from medae.plan import Plan
from medae.planning.facts import Fingerprint
from medae.planning.memory import Estimator
from medae.training.config import FitConfig
from medae.training.memory import step_memory
from medae.training.precision import Precision
from pipelines.networks import NetworkChoice, network_config


def estimator_of(
    network: NetworkChoice,
    objective: ObjectiveConfig,
    fit: FitConfig,
    classes: int | None = None,
    beside: Callable[[int], int] | None = None,
) -> Estimator:
    """The estimate for a stage's own network, objective and optimisation.

    classes: of a segmenter, background included. beside: from the samples of a step to those of a second stream that
    goes through the network in the same step; they count as if they were labelled.
    """

    def size(plan: Plan) -> int:
        config = network_config(network, plan, classes)
        samples = plan.sampling.batch + (beside(plan.sampling.batch) if beside else 0)
        return step_memory(config, objective, plan.sampling.patch, samples, fit).total

    precision = "fp32" if fit.precision == "auto" else fit.precision
    labels = "" if classes is None else f" for {classes} classes"
    return Estimator(size, f"a training step of the {network['kind']}{labels} ({precision}, {fit.optimiser})")


def default_estimator(found: Fingerprint, precision: Precision = "fp32") -> Estimator:
    """For a plan without a stage: a U-Net for the labels of the first label map, or for one if there is none."""
    labels = max((len(structures) for structures in list(found.labels.values())[:1]), default=0)
    fit = FitConfig(steps=1, precision=precision)
    return estimator_of({"kind": "unet"}, SegmentationConfig(), fit, classes=max(labels, 1) + 1)
