"""All probes by their configuration, and one of them with its patches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import Field

from medae.models.base import Network
from medae.plan import SpacePlan
from medae.preprocessing.sampling import PatchSampler, SamplerConfig
from medae.preprocessing.store import Store
from medae.seeding import seed_for
from medae.training.probes.base import dice_of_patches, patches
from medae.training.probes.finetune import FinetuneProbe
from medae.training.probes.linear import LinearProbe

ProbeConfig = Annotated[LinearProbe | FinetuneProbe, Field(discriminator="kind")]


class Probe:
    """A probe with its patches: a pure function of a network's weights.

    fitted, scored: case ids. store: has these cases with the label map. drawing: how patches are drawn; how many a batch is
    the probe's business. labels: names by value, background included.
    """

    def __init__(
        self,
        config: LinearProbe | FinetuneProbe,
        store: Store,
        fitted: Sequence[str],
        scored: Sequence[str],
        space: SpacePlan,
        drawing: SamplerConfig,
        labels: Mapping[int, str],
    ) -> None:
        self.config, self.labels = config, dict(labels)
        seeds = {part: seed_for(config.seed, "probe", part) for part in ("fitted", "scored")}
        self._fitted = PatchSampler(store, fitted, space, config.fitting(drawing), seeds["fitted"], target=config.target)
        one = drawing.model_copy(update={"batch": 1})
        self._scored = PatchSampler(store, scored, space, one, seeds["scored"], target=config.target)

    def __call__(self, network: Network) -> dict[str, float | None]:
        """What ``dice_of_patches`` gives of the scored patches. The network is in evaluation mode, and stays as it is."""
        device = next(network.parameters()).device
        segment = self.config.segmenter(network, self._fitted, len(self.labels))
        return dice_of_patches(segment, patches(self._scored, self.config.patches), self.config.target, self.labels, device)
