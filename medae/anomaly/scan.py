"""A scan as anomaly maps see it: prepared, with what a model makes of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from medae.anomaly.draws import DrawsConfig, drawn
from medae.anomaly.restore import RestoreConfig, restored
from medae.config import Config, digest
from medae.errors import ConfigError
from medae.inference.predict import predict_maps
from medae.models.autoencoder import LESION
from medae.models.output import Output
from medae.plan import Plan
from medae.preprocessing.prepare import Prepared


class _Outputs(nn.Module):
    """All that a model makes of a scan as one map: ``[B, C, *S]``, with a lesion head ``[B, C + 1, *S]``."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Output:
        output = self.model(image)
        logits = output.extras.get(LESION)
        return Output((output.finest if logits is None else torch.cat([output.finest, softplus(logits)], dim=1),))


class Scan:
    """A prepared scan. Its reconstruction is made once, when a map first asks for it, and serves all of them.

    model: of normal anatomy, on ``device``, in evaluation mode; None where no map needs one. normal: bool ``[1, I, J, K]``,
    the voxels that maps may learn from; the whole mask unless given. mirrored: spatial axes along which the
    reconstruction is averaged over mirror images: those along which the model was trained on some.
    kept: a file (``.npy``) that the reconstruction is read from if it is there, and written to once it is made.
    """

    def __init__(
        self,
        prepared: Prepared,
        plan: Plan,
        model: nn.Module | None = None,
        device: torch.device | str = "cpu",
        *,
        normal: Tensor | None = None,
        mirrored: Sequence[int] = (),
        kept: Path | None = None,
    ) -> None:
        self.prepared, self.plan, self.model, self.device = prepared, plan, model, device
        self.mirrored, self.kept = tuple(mirrored), kept
        self._made: dict[Config | None, Tensor] = {}
        self.normal = prepared.mask if normal is None else normal & prepared.mask

    def drawn(self, config: DrawsConfig) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of several reconstructions, shaped as ``reconstruction``."""
        mean, deviation = self._once(
            config, lambda: torch.stack(drawn(self.network(), self.prepared, self.plan, config, **self._how()))
        )
        return mean, deviation

    def restored(self, config: RestoreConfig) -> Tensor:
        """The scan after steps towards what the model believes in, shaped as ``image``."""
        return self._once(config, lambda: restored(self.network(), self.prepared, self.plan, config, **self._how()))

    @property
    def image(self) -> Tensor:
        """The scan, normalised, plan grid: float32 ``[C, I, J, K]``."""
        return self.prepared.image

    @property
    def mask(self) -> Tensor:
        """Where voxels count: bool ``[1, I, J, K]``."""
        return self.prepared.mask

    @property
    def slice_axis(self) -> int | None:
        """Of a plan of slices: the axis across which they lie."""
        return self.plan.space.slice_axis

    @cached_property
    def reconstruction(self) -> Tensor:
        """What the model makes of the scan: float32 ``[C, I, J, K]`` on the CPU, in the units of the image."""
        return self._outputs[: len(self.image)]

    @property
    def surprise(self) -> Tensor:
        """-ln(1 - p) of the model's lesion head: float32 ``[1, I, J, K]`` on the CPU. For a model that has one."""
        return self._outputs[len(self.image) :]

    @property
    def _outputs(self) -> Tensor:
        """Reconstruction, and what a lesion head finds, in one go."""
        return self._once(None, lambda: self.through(_Outputs(self.network()), self.prepared))

    def through(self, network: nn.Module, prepared: Prepared) -> Tensor:
        """What a network on the model's device makes of images on the scan's grid: float32 ``[K, I, J, K]`` on the CPU."""
        return predict_maps(network, prepared, self.plan, activation="none", **self._how()).cpu().clone()

    def network(self) -> nn.Module:
        """The model. Raises ConfigError if there is none."""
        if self.model is None:
            raise ConfigError(
                "A map needs a model's reconstruction, and there is no model.",
                where="scoring.map",
                remedy="Give a model, or use maps that need none (kind: intensity or blur).",
            )
        return self.model

    def _once(self, config: Config | None, make: Callable[[], Tensor]) -> Tensor:
        """What is made for a configuration (None: the reconstruction): once, for it is slow; kept in memory and on disk."""
        if config not in self._made:
            file = self.kept
            if file is not None and config is not None:
                file = file.with_suffix(f".{digest(config)[:12]}.npy")
            if file is not None and file.is_file():
                self._made[config] = torch.from_numpy(np.load(file))
            else:
                # a tensor of its own: those of inference mode cannot be worked on
                self._made[config] = make().cpu().clone()
                if file is not None:
                    np.save(file, self._made[config].numpy())
        return self._made[config]

    def _how(self) -> dict[str, Any]:
        return {"device": self.device, "mirrored": self.mirrored}
