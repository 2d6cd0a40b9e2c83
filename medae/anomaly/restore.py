"""Restoration: gradient steps from a scan towards what a model of normal anatomy believes in.

Where one reconstruction blurs what is normal along with what is not, restoration changes a scan as little as it can until
the model finds it likely: what had to change is the anomaly. A total-variation term on the change keeps noise out of it.
Sources: You et al. 2019, "Unsupervised lesion detection via image restoration with a normative prior" (steps on the image);
Baur et al. 2021, section 3 (the same with a VAE).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from medae.config import Config
from medae.errors import ConfigError
from medae.inference.predict import predict_maps
from medae.models.networks import StoredConfig
from medae.models.output import Output
from medae.plan import Plan
from medae.preprocessing.prepare import Prepared

SMOOTH = 1e-3
"""Within which the absolute values of the loss are rounded off, in normalised units: a gradient that only jumps shakes."""

BETAS = (0.0, 0.99)
"""Of Adam: momentum would carry a voxel on beyond what is likely."""


class RestoreConfig(Config):
    """over: what is changed: the ``image``, or the ``latent`` that it is decoded from, which takes a network without skips.
    steps: of Adam, without momentum. rate: length of the first step, in normalised units for an image, in those of the
    latent for a latent; it falls to 0. tv: weight of the total variation.

    The loss of an image: the squared difference to its own
    reconstruction, for a VAE the divergence of its latent from the prior, and ``tv`` times the total variation of what was
    changed. That of a latent: the absolute difference of scan and decoded image, for a VAE half the latent's square, and
    ``tv`` times the total variation of the difference. Sums over the mask.
    """

    over: Literal["image", "latent"] = "image"
    steps: int = Field(default=100, ge=1)
    rate: float = Field(default=0.2, gt=0)
    tv: float = Field(default=0.5, ge=0)

    def check(self, network: StoredConfig) -> None:
        """Raises ConfigError for a network whose latent does not hold the whole image, and for several latents."""
        if network.kind == "autoencoder_ensemble" and (self.over == "latent" or network.member.kind == "vae"):
            raise ConfigError(
                "An ensemble has several latents, and none is the one to restore by.",
                where="scoring.map.restore",
                remedy="Take over: image, with members that are no vae, or train one network (members: 1).",
            )
        if self.over == "latent" and (found := network.shortcuts() if hasattr(network, "shortcuts") else ("no latent",)):
            raise ConfigError(
                f"Steps on the latent change only a part of this network's output: it has {', '.join(found)}.",
                where="scoring.map.restore.over",
                remedy="Take over: image, or an autoencoder without skips.",
            )


def restored(model: nn.Module, prepared: Prepared, plan: Plan, config: RestoreConfig, **how: Any) -> Tensor:
    """A scan as the model would rather have it, float32 ``[C, I, J, K]`` on the CPU; present channels change, in the mask.

    model: in evaluation mode, on its device. how: further arguments of ``predict_maps``.
    """
    with_mask = replace(prepared, image=torch.cat([prepared.image, prepared.counted.float()]))
    return predict_maps(_Restored(model, config, plan.space.slices), with_mask, plan, activation="none", **how).cpu()


class _Restored(nn.Module):
    """From images whose slices have what counts beside them, ``[B, slices x 2C, *S]``, to the restored middle."""

    def __init__(self, network: nn.Module, config: RestoreConfig, slices: int) -> None:
        super().__init__()
        self.network, self.config, self.slices = network, config, slices

    def forward(self, pairs: Tensor) -> Output:
        """The steps run outside of inference mode, for windows are predicted in it and have no gradients there."""
        with torch.inference_mode(False), torch.enable_grad():
            stacked = pairs.clone().unflatten(1, (self.slices, 2, -1))
            inside = stacked[:, self.slices // 2, 1] > 0.5
            found = (self._image if self.config.over == "image" else self._latent)(stacked[:, :, 0], inside)
        return Output((found.detach(),))

    def _image(self, stacked: Tensor, inside: Tensor) -> Tensor:
        """stacked: ``[B, slices, C, *S]``. Of several slices the middle one changes, its neighbours stay."""
        scan = stacked[:, self.slices // 2]
        change = torch.zeros_like(scan, requires_grad=True)
        for step in _Steps(change, self.config):
            inner = torch.where(inside, change, 0.0)
            seen = stacked.clone()
            seen[:, self.slices // 2] = scan + inner
            output = self.network(seen.flatten(1, 2))
            unlike = torch.where(inside, (output.finest.float() - (scan + inner)).square(), 0.0).sum()
            step(unlike + _divergence(output) + self.config.tv * _variation(inner))
        return scan + torch.where(inside, change, 0.0)

    def _latent(self, stacked: Tensor, inside: Tensor) -> Tensor:
        network: Any = self.network
        scan = stacked[:, self.slices // 2]
        with torch.no_grad():
            features = network.encoder(stacked.flatten(1, 2), None)
            latent = network(stacked.flatten(1, 2)).latent.float().clone()
        latent.requires_grad_()
        is_variational = network.config.kind == "vae"
        for step in _Steps(latent, self.config):
            apart = torch.where(inside, network.decode(latent, features) - scan, 0.0)
            prior = 0.5 * latent.square().sum() if is_variational else 0.0
            step(_absolute(apart).sum() + prior + self.config.tv * _variation(apart))
        with torch.no_grad():
            return torch.where(inside, network.decode(latent, features), scan)


class _Steps:
    """The steps of one variable; the network's weights have no gradient from them."""

    def __init__(self, variable: Tensor, config: RestoreConfig) -> None:
        self.variable, self.config = variable, config
        self.optimiser = torch.optim.Adam([variable], lr=config.rate, betas=BETAS)

    def __iter__(self) -> Iterator[Callable[[Tensor], None]]:
        for done in range(self.config.steps):
            self.optimiser.param_groups[0]["lr"] = self.config.rate * (1 - done / self.config.steps)
            yield self._descend

    def _descend(self, loss: Tensor) -> None:
        (self.variable.grad,) = torch.autograd.grad(loss, [self.variable])
        self.optimiser.step()


def _divergence(output: Output) -> Tensor | float:
    """Of a VAE's latent from the standard normal prior, summed; 0 for other networks."""
    if "mu" not in output.extras:
        return 0.0
    mu, logvar = output.extras["mu"], output.extras["logvar"]
    return 0.5 * (mu.square() + logvar.exp() - 1.0 - logvar).sum()


def _variation(x: Tensor) -> Tensor:
    """Anisotropic total variation over the spatial axes of ``[B, C, *S]``, summed."""
    steps = [_absolute(x.diff(dim=axis)).sum() for axis in range(2, x.ndim) if x.shape[axis] > 1]
    return torch.stack(steps).sum() if steps else x.sum() * 0


def _absolute(x: Tensor) -> Tensor:
    return (x.square() + SMOOTH**2).sqrt() - SMOOTH
