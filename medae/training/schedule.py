"""The learning rate as a pure function of the step: nothing to store, nothing to restore."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from medae.config import Config


class ScheduleConfig(Config):
    """Linear warm-up, then a fall that would reach ``floor`` in the step after the last; ``constant`` stays at the peak.

    warmup: steps. power: exponent of ``poly``; no other has one. floor: share of the peak rate that is left at the end;
    ``constant`` has none.
    """

    kind: Literal["cosine", "poly", "constant"] = "cosine"
    warmup: int = Field(default=50, ge=0)
    power: float = Field(default=0.9, gt=0)
    floor: float = Field(default=0.0, ge=0, le=1)


def rate_factor(step: int, steps: int, config: ScheduleConfig) -> float:
    """What the peak rate is multiplied by in ``step`` (from 0) of a training of ``steps``.

    Step ``warmup - 1`` is the first at the peak. A training shorter than its warm-up ends inside it.
    """
    if step < config.warmup:
        return (step + 1) / config.warmup
    done = min(1.0, (step - config.warmup) / max(1, steps - config.warmup))
    if config.kind == "cosine":
        shape = 0.5 * (1 + math.cos(math.pi * done))
    elif config.kind == "poly":
        shape = (1 - done) ** config.power
    else:
        return 1.0
    return config.floor + (1 - config.floor) * shape
