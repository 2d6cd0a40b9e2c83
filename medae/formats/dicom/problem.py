"""Why a series is not read, or what should be known about one that is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from medae.errors import DataError, GeometryError


@dataclass(frozen=True)
class Problem:
    """What is wrong with a series. It names no patient, file or folder.

    code: a short name of the kind, for programs. problem: a clause that goes on from "The series". remedy: what to do.
    """

    code: str
    problem: str
    remedy: str

    def error(self, where: Path) -> DataError:
        """The problem as an error to raise."""
        return DataError(f"The series {self.problem}.", where=where, remedy=self.remedy)

    def geometry_error(self, where: Path) -> GeometryError:
        """The same where it is the grid that does not fit."""
        return GeometryError(f"The series {self.problem}.", where=where, remedy=self.remedy)
