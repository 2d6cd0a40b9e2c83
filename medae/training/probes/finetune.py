"""The fine-tuning probe: a short training of a copy of the encoder under score layers."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from medae.models.base import Network
from medae.models.fcn import FCN, FCNConfig
from medae.objectives.registry import build_objective
from medae.objectives.segmentation import SegmentationConfig
from medae.preprocessing.sampling import PatchSampler, SamplerConfig
from medae.seeding import Draw, seed_for, seeded_step
from medae.training.config import FitConfig
from medae.training.groups import build_optimiser
from medae.training.precision import MixedPrecision, resolve_precision
from medae.training.probes.base import ProbeSettings, Segment
from medae.training.schedule import ScheduleConfig, rate_factor


class FinetuneProbe(ProbeSettings):
    """What the encoder becomes in a short few-label training, with one score layer a level instead of a decoder (an FCN).

    The decoder is left out so that the value is the encoder's. steps: of the training, without augmentation. rate: peak
    learning rate, after a warm-up of a tenth of the steps. batch: patches a step.
    """

    kind: Literal["finetune"] = "finetune"
    steps: int = Field(default=100, ge=1)
    rate: float = Field(default=4e-3, gt=0)
    batch: int = Field(default=4, ge=1)

    def fitting(self, drawing: SamplerConfig) -> SamplerConfig:
        """How the patches to fit on are drawn: a batch a step."""
        return drawing.model_copy(update={"batch": self.batch})

    def segmenter(self, network: Network, fitted: PatchSampler, classes: int) -> Segment:
        """An FCN with the encoder's weights, trained with the same first score layers and batches every time."""
        device = next(network.parameters()).device
        copy = self._copy(network, classes).to(device)
        objective = build_objective(SegmentationConfig(target=self.target), copy.config)
        config = FitConfig(steps=self.steps, rate=self.rate, schedule=ScheduleConfig(warmup=self.steps // 10))
        optimiser = build_optimiser(dict(copy.named_parameters()), {}, config)
        dtype = resolve_precision("auto", device)
        # fp16 would need its gradients scaled
        mixed = MixedPrecision(copy, torch.float32 if dtype == torch.float16 else dtype, device).train()
        for step in range(self.steps):
            with torch.enable_grad(), seeded_step(seed_for(self.seed, "probe"), step):
                batch = fitted.batch(step).to(device)
                objective(mixed, batch, Draw(self.seed, step).scoped("probe"))[0].total.backward()
            clip_grad_norm_(copy.parameters(), 1.0)
            for group in optimiser.param_groups:
                group["lr"] = self.rate * rate_factor(step, self.steps, config.schedule)
            optimiser.step()
            optimiser.zero_grad()
        mixed.eval()

        def segment(image: Tensor) -> Tensor:
            with torch.no_grad():
                return mixed(image).finest.argmax(dim=1)

        return segment

    def _copy(self, network: Network, classes: int) -> FCN:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_for(self.seed, "probe", "initial weights"))
            copy = FCN(FCNConfig(encoder=network.config.encoder, classes=classes))
        copy.encoder.load_state_dict(network.encoder.state_dict())
        return copy
