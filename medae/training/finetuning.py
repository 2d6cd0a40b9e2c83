"""How a pretrained network is tuned: each weight's share of the learning rate, a pure function of the step.

There is nothing to store and nothing to restore, so that a resumed training has the stages of an unbroken one. Where the
share is 0 a weight is still: no gradient, no weight decay, no moment of the optimiser; batch norms keep their statistics.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from medae.config import Config
from medae.training.config import FitConfig
from medae.training.schedule import rate_factor

Length = Annotated[int, Field(ge=0, strict=True)] | Annotated[float, Field(ge=0, lt=1, strict=True)]
"""Steps (an integer), or a share of all steps (a number below 1)."""


def in_steps(length: Length, steps: int) -> int:
    """A length as steps of a training of ``steps``, a share rounded to the nearest."""
    return length if isinstance(length, int) else round(length * steps)


def _risen(step: int, start: int, over: int) -> float:
    """0 before ``start``, then linearly up, 1 from the ``over``-th step on."""
    return min(1.0, max(0, step - start + 1) / max(1, over))


class Together(Config):
    """Encoder and decoder from the first step. encoder: the encoder's share of the rate."""

    kind: Literal["together"] = "together"
    encoder: float = Field(default=1.0, gt=0)

    def factor(self, depth: int, step: int, steps: int) -> float:
        """What the rate is multiplied by in ``step`` of ``steps``. depth: 0 outside the encoder, 1 at its coarsest level."""
        return self.encoder if depth else 1.0

    def describe(self, steps: int) -> str:
        """In words."""
        rate = "the same rate" if self.encoder == 1 else f"{self.encoder:g} of the rate"
        return f"encoder and decoder learn from the first step, the encoder at {rate}"


class Gentle(Config):
    """The whole network at a small rate first, so that a decoder that knows nothing does not undo the encoder.

    share: of the rate, in that time. lasts: how long; steps, or a share of all steps. warmup: the way from there to the
    full rate. The warm-up of ``fit.schedule`` multiplies with it.
    """

    kind: Literal["gentle"] = "gentle"
    share: float = Field(default=0.1, gt=0, le=1)
    lasts: Length = 0.1
    warmup: Length = 0.05

    def factor(self, depth: int, step: int, steps: int) -> float:
        """What the rate is multiplied by in ``step`` of ``steps``, the same for all weights."""
        start, over = in_steps(self.lasts, steps), in_steps(self.warmup, steps)
        return self.share + (1 - self.share) * _risen(step, start, over)

    def describe(self, steps: int) -> str:
        """In words."""
        start, over = in_steps(self.lasts, steps), in_steps(self.warmup, steps)
        return f"{self.share:g} of the rate for {start} steps, then up to the full rate over {over}"


class DecoderFirst(Config):
    """The encoder is still while the decoder finds its way, then both learn.

    lasts: how long it is still; steps, or a share of all steps. warmup: the encoder's own, from 0 to its rate. encoder: its
    share of the rate.
    """

    kind: Literal["decoder_first"] = "decoder_first"
    lasts: Length = 0.1
    warmup: Length = 0.05
    encoder: float = Field(default=1.0, gt=0)

    def factor(self, depth: int, step: int, steps: int) -> float:
        """What the rate is multiplied by in ``step`` of ``steps``. depth: 0 outside the encoder."""
        if depth == 0:
            return 1.0
        return self.encoder * _risen(step, in_steps(self.lasts, steps), in_steps(self.warmup, steps))

    def describe(self, steps: int) -> str:
        """In words."""
        start, over = in_steps(self.lasts, steps), in_steps(self.warmup, steps)
        rate = "the full rate" if self.encoder == 1 else f"{self.encoder:g} of the rate"
        return f"the encoder is still for {start} steps, then comes up to {rate} over {over}"


class Layerwise(Config):
    """The further an encoder level is from the decoder, the less it changes. Source: Clark 2020 (ELECTRA), Bao 2022 (BEiT).

    decay: the coarsest level learns at this share of the decoder's rate, each finer one at this share of the one before.
    """

    kind: Literal["layerwise"] = "layerwise"
    decay: float = Field(default=0.75, gt=0, le=1)

    def factor(self, depth: int, step: int, steps: int) -> float:
        """What the rate is multiplied by. depth: 0 outside the encoder, 1 at its coarsest level, one more a level."""
        return self.decay**depth

    def describe(self, steps: int) -> str:
        """In words."""
        return f"each encoder level learns at {self.decay:g} of the rate of the one above it, seen from the decoder"


class Frozen(Config):
    """The encoder is still from the first step to the last, its norms too: what its features alone are good for."""

    kind: Literal["frozen"] = "frozen"

    def factor(self, depth: int, step: int, steps: int) -> float:
        """0 in the encoder, 1 outside."""
        return 0.0 if depth else 1.0

    def describe(self, steps: int) -> str:
        """In words."""
        return "the encoder is still from the first step to the last"


def tuning_kind(tuning: Any) -> str | None:
    """The schedule that a configuration names, ``together`` if it names none."""
    return tuning.get("kind", "together") if isinstance(tuning, Mapping) else getattr(tuning, "kind", None)


TuningConfig = Annotated[
    Annotated[Together, Tag("together")]
    | Annotated[Gentle, Tag("gentle")]
    | Annotated[DecoderFirst, Tag("decoder_first")]
    | Annotated[Layerwise, Tag("layerwise")]
    | Annotated[Frozen, Tag("frozen")],
    Discriminator(tuning_kind),
]


def rates_by_part(fit: FitConfig, tuning: TuningConfig | None, levels: int) -> dict[str, list[float]]:
    """The learning rate of each part of a network in each step, from the first.

    levels: of its encoder, which has an entry of its own a level (1 is the finest) where their rates differ.
    """
    peak = [fit.rate * rate_factor(step, fit.steps, fit.schedule) for step in range(fit.steps)]
    if tuning is None:
        return {"all weights": peak}
    by_depth = [
        [rate * tuning.factor(depth, step, fit.steps) for step, rate in enumerate(peak)] for depth in range(levels + 1)
    ]
    if all(rates == by_depth[1] for rates in by_depth[2:]):
        return {"decoder": by_depth[0], "encoder": by_depth[1]}
    return {"decoder": by_depth[0]} | {
        f"encoder level {levels + 1 - depth}": by_depth[depth] for depth in range(1, levels + 1)
    }
