"""Several objectives at once: a weighted sum of their losses."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

from medae.config import Config
from medae.models.encoder import EncoderConfig
from medae.objectives.base import Loss, Objective
from medae.objectives.denoising import DenoisingConfig
from medae.objectives.lesions import LesionsConfig
from medae.objectives.masked import MaskedConfig
from medae.objectives.reconstruction import ReconstructionConfig
from medae.objectives.restoration import RestorationConfig
from medae.objectives.variational import VariationalConfig
from medae.preprocessing.batch import Batch
from medae.seeding import Draw

PartConfig = Annotated[
    ReconstructionConfig | VariationalConfig | DenoisingConfig | MaskedConfig | RestorationConfig | LesionsConfig,
    Field(discriminator="kind"),
]


class Part(Config):
    """One objective of a combination. weight: of its loss in the sum."""

    weight: float = Field(default=1.0, gt=0)
    objective: PartConfig


class CombinedConfig(Config):
    """The weighted sum of other objectives' losses on the same batch.

    Every part corrupts the batch in its own way and lets the network run on it, so a step costs as much as a step of each
    part. parts: the objectives and their weights.
    """

    kind: Literal["combined"] = "combined"
    parts: tuple[Part, ...] = Field(min_length=2)

    def names(self) -> tuple[str, ...]:
        """A name for each part: its kind, numbered from the second of a kind on."""
        met: Counter[str] = Counter()
        found = []
        for part in self.parts:
            kind = part.objective.kind
            met[kind] += 1
            found.append(kind if met[kind] == 1 else f"{kind} {met[kind]}")
        return tuple(found)

    @property
    def corrupts(self) -> bool:
        """Whether every part corrupts what the network sees."""
        return all(part.objective.corrupts for part in self.parts)

    def build(self, encoder: EncoderConfig) -> Objective:
        """The objective for networks with such an encoder."""
        return CombinedObjective(self, [part.objective.build(encoder) for part in self.parts])


class CombinedObjective(Objective):
    """One loss a parameter group; terms and figures are named by part, each part has draws of its own."""

    def __init__(self, config: CombinedConfig, parts: list[Objective]) -> None:
        super().__init__()
        self.names, self.weights = config.names(), tuple(part.weight for part in config.parts)
        self.parts = nn.ModuleList(parts)

    def forward(self, model: nn.Module, batch: Batch, draw: Draw) -> list[Loss]:
        """The losses of all parts, summed for each group of parameters."""
        sums: dict[str, Loss] = {}
        for name, weight, part in zip(self.names, self.weights, self.parts, strict=True):
            for loss in part(model, batch, draw.scoped(name)):
                total = weight * loss.total
                terms = {f"{name}/{term}": value for term, value in loss.terms.items()}
                known = sums.get(loss.parameters)
                if known is not None:
                    total, terms = known.total + total, known.terms | terms
                sums[loss.parameters] = Loss(total, terms, loss.parameters)
        return list(sums.values())

    def example(self, model: nn.Module, batch: Batch, draw: Draw) -> dict[str, Tensor]:
        """``input``, then what each part shows beside it, by the part's name."""
        shown = {"input": batch.centre}
        for name, part in zip(self.names, self.parts, strict=True):
            own = part.example(model, batch, draw.scoped(name))  # type: ignore[operator]
            shown |= {f"{name}: {key}": value for key, value in own.items() if key != "input"}
        return shown
