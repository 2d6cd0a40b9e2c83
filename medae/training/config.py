"""How a network is trained, whatever its objective."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from medae.config import Config, to_dict
from medae.training.schedule import ScheduleConfig


class FitConfig(Config):
    """Optimisation, precision and selection of one training.

    steps: optimisation steps in all. epoch_steps: after so many steps comes an "epoch's" end: metrics are logged, the
    model is validated, a checkpoint is written. rate: peak learning rate. weight_decay: spares norms and biases.
    momentum: of sgd (Nesterov). clip: largest gradient norm of a parameter group. ema: decay of the moving average
    of the weights, which is then what is validated and kept; it starts faster: min(ema, (1 + step) / (10 + step)).
    precision: of the network's forward and backward pass; losses and weights are always fp32. ``auto`` is bf16 where
    the hardware has it, else fp16 on CUDA, else fp32. monitor: the metric of an epoch that chooses the weights to
    keep (None keeps the last ones): ``dice_mean`` with a fine-tuning's ``selection``, ``probe/dice`` with a probe.
    patience: epochs that have the monitored metric without a better value of it, after which training stops.
    deterministic: the same bits in every run on the same device, threads and versions (CPU; on CUDA as far as torch
    can, the rest is named). workers: processes that prepare batches, at most one a core; they change the speed, not the
    values.
    """

    steps: int = Field(ge=1)
    epoch_steps: int = Field(default=50, ge=1)
    rate: float = Field(default=1e-3, gt=0)
    optimiser: Literal["adamw", "sgd"] = "adamw"
    weight_decay: float = Field(default=1e-2, ge=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    schedule: ScheduleConfig = ScheduleConfig()
    clip: float | None = Field(default=1.0, gt=0)
    ema: float | None = Field(default=None, gt=0, lt=1)
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    monitor: str | None = None
    mode: Literal["max", "min"] = "max"
    patience: int | None = Field(default=None, ge=1)
    seed: int = 0
    channels_last: bool = True
    compile: bool = False
    deterministic: bool = True
    workers: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _watches(self) -> FitConfig:
        if self.patience is not None and self.monitor is None:
            raise ValueError("patience needs monitor: the name of the metric to be patient with")
        return self

    def decisive(self) -> dict[str, Any]:
        """What a resumed training must share with its checkpoint: all but the length and the worker count."""
        return {key: value for key, value in to_dict(self).items() if key not in ("steps", "workers")}
