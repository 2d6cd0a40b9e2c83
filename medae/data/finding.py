"""What a user should know about a file of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

Level = Literal["error", "warning"]


@dataclass(frozen=True)
class Finding:
    """Something about a data set that a user should know, and what to do about it.

    case: its id, empty for the whole data set and for files that belong to no case. file: relative to the root, as the
    user named it, or some of several (``some_of``); for the screen only. level: an error leaves the case (or the file, where
    there is no case) out of training, a warning does not. code: a short name of the kind of problem, for programs.
    problem: a clause that says what is wrong ("has 3 voxels that are not a number"); it names no file and no case.
    remedy: what to do. role: what the file is to the case, such as ``image T1w`` or ``target label``.
    """

    case: str
    file: str
    level: Level
    code: str
    problem: str
    remedy: str
    role: str = ""

    def public(self) -> Finding:
        """The same for reports, logs and whatever else may leave the screen: case and role, without the file's name."""
        return replace(self, file="")


def some_of(files: Sequence[str], most: int = 1) -> str:
    """The first of several files, and how many more there are."""
    more = len(files) - most
    return ", ".join(files[:most]) + (f" and {more} more" if more > 0 else "")
