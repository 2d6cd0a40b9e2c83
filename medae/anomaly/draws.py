"""Several reconstructions of one scan: their mean, and how far they lie apart.

What a model makes of a place is less sure where its draws differ; a difference that is large against them means more. Draws
come from noise on the scan, from dropout, or from the latent of a variational autoencoder. Sources: Kascenas et al. 2022
(noise), Gal and Ghahramani 2016 (dropout), Kingma and Welling 2014 (latent).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from medae.config import Config, validate
from medae.errors import ConfigError
from medae.inference.predict import predict_maps
from medae.models.networks import StoredConfig
from medae.models.output import Output
from medae.models.vae import VAE
from medae.objectives.denoising import DenoisingConfig, DenoisingObjective
from medae.objectives.reconstruction import voxel_weights
from medae.plan import Plan
from medae.preprocessing.batch import Batch
from medae.preprocessing.prepare import Prepared
from medae.seeding import Draw, seed_for


class DrawsConfig(Config):
    """number: of reconstructions. noise: standard deviation of coarse noise that is put on the scan, 0 for none. cell: of
    that noise, see the denoising objective. dropout, latent: whether the network's dropout, or its latent, is drawn."""

    number: int = Field(default=8, ge=2)
    noise: float = Field(default=0.0, ge=0)
    cell: int = Field(default=8, ge=1)
    dropout: bool = False
    latent: bool = False

    @model_validator(mode="after")
    def _something_varies(self) -> Self:
        if not (self.noise or self.dropout or self.latent):
            raise ValueError("draws need something that varies: noise above 0, dropout: true or latent: true")
        return self

    def check(self, network: StoredConfig) -> None:
        """Raises ConfigError for draws that a network cannot make."""
        if network.kind == "autoencoder_ensemble" and (self.latent or self.dropout):
            raise ConfigError(
                "The members of an ensemble would be drawn apart, and their mean varies less than one of them.",
                where="scoring.map.draws",
                remedy="Take draws of noise, or train one network (members: 1).",
            )
        if self.latent and network.kind != "vae":
            raise ConfigError(
                f"The latent of a network of kind '{network.kind}' is not drawn.",
                where="scoring.map.draws.latent",
                remedy="Take network.kind: vae, or draws of noise.",
            )
        if self.dropout and network.encoder.dropout == 0:
            raise ConfigError(
                "The network has no dropout to draw.",
                where="scoring.map.draws.dropout",
                remedy="Set network.encoder.dropout above 0, or take draws of noise.",
            )


def drawn(model: nn.Module, prepared: Prepared, plan: Plan, config: DrawsConfig, **how: Any) -> tuple[Tensor, Tensor]:
    """The mean of a scan's reconstructions and their standard deviation, float32 ``[C, I, J, K]`` on the CPU.

    model: in evaluation mode, on its device. how: further arguments of ``predict_maps``. The draws depend on the case's id
    and their number alone; torch's own random state is left as it was.
    """
    mean, squares = torch.zeros_like(prepared.image), torch.zeros_like(prepared.image)
    varied = _Varied(model, config)
    devices = [torch.device(how["device"])] if torch.device(how["device"]).type == "cuda" else []
    for number in range(config.number):
        draw = Draw(0, number, scope=("reconstruction", prepared.case_id))
        noisy = (
            replace(prepared, image=_noisy(prepared, plan.space.slice_axis, plan.space.slices, config, draw))
            if config.noise
            else prepared
        )
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed_for(0, *draw.scope, number))
            made = predict_maps(varied, noisy, plan, activation="none", **how).cpu()
        before = made - mean  # Welford's way, so that the sum of squares loses no digits
        mean = mean + before / (number + 1)
        squares = squares + before * (made - mean)
    return mean, (squares / (config.number - 1)).clamp(min=0).sqrt()


def _noisy(prepared: Prepared, slice_axis: int | None, slices: int, config: DrawsConfig, draw: Draw) -> Tensor:
    """The scan with coarse noise inside its mask; in a plan of slices each has noise of its own, but where the network sees
    several at a time: those share theirs, as in training."""
    noise = DenoisingObjective(validate(DenoisingConfig, {"sigma": [config.noise] * 2, "cell": config.cell}))
    image, mask = prepared.image[None], prepared.mask[None]
    if slice_axis is not None:
        image, mask = (each[0].movedim(1 + slice_axis, 0) for each in (image, mask))
    batch = Batch(image, prepared.present.expand(len(image), -1), mask)
    if slices > 1:
        noisy = image + noise.noise(batch.first(1), draw, "coarse") * voxel_weights(batch, "foreground")
    else:
        noisy = noise.corrupt(batch, draw)
    return noisy[0] if slice_axis is None else noisy.movedim(0, 1 + slice_axis)


class _Varied(nn.Module):
    """A network in evaluation mode but for what is drawn."""

    def __init__(self, network: nn.Module, config: DrawsConfig) -> None:
        super().__init__()
        self.network, self.config = network, config

    def forward(self, image: Tensor) -> Output:
        """As of the network, one draw of it."""
        chosen = [module for module in self.network.modules() if self._is_drawn(module)]
        for module in chosen:
            module.training = True
        try:
            output: Output = self.network(image)
        finally:
            for module in chosen:
                module.training = False
        return output

    def _is_drawn(self, module: nn.Module) -> bool:
        """Its own flag alone: the norms inside keep to what they have learnt."""
        with_dropout = isinstance(rate := getattr(module, "dropout", 0.0), float) and rate > 0
        return (self.config.latent and isinstance(module, VAE)) or (self.config.dropout and with_dropout)
