"""What the configurations of several transformations share."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator
from torch import Tensor

from medae.config import Config


class Between(Config):
    """A transformation of given probability whose strength lies in [lower, upper]."""

    probability: float = Field(ge=0, le=1)
    lower: float = Field(gt=0)
    upper: float = Field(gt=0)

    @model_validator(mode="after")
    def _order(self) -> Self:
        if self.lower > self.upper:
            raise ValueError("lower must not be above upper")
        return self

    def uniform(self, numbers: Tensor) -> Tensor:
        """Strengths for numbers in [0, 1), every one equally likely."""
        return self.lower + (self.upper - self.lower) * numbers

    def log_uniform(self, numbers: Tensor) -> Tensor:
        """Strengths for numbers in [0, 1), a doubling as likely as a halving."""
        return self.lower * (self.upper / self.lower) ** numbers
