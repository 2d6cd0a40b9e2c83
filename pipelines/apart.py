"""No scan on two sides: what is trained on, chosen by and tested on, checked by subject and by the bytes of files."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

from medae.data.case import Case, Manifest
from medae.errors import DataError


def keep_apart(sides: Mapping[str, Manifest]) -> None:
    """Raises DataError, with the cases' ids, if a subject or a file of an image occurs on two sides.

    sides: cases by what they are for, such as ``training`` and ``test``. Each channel's file counts by itself, by its bytes
    and not its name: one file under two subjects is one scan. A scan that was saved again is another file. Blank files,
    which many cases could share, are not met here: the check leaves out cases with a constant image.
    """
    for (one, first), (other, second) in combinations(sides.items(), 2):
        if found := _shared(first, second):
            pairs = [f"{mine.id}" if mine.id == theirs.id else f"{mine.id} ({theirs.id})" for mine, theirs in found]
            raise DataError(
                f"{len(found)} {other} cases are also among the {one} cases, by subject or by the file of an image: "
                f"{', '.join(pairs[:5])}.",
                where="split",
                remedy=f"Find out whose scans they are (in brackets: the {one} case), and keep each of them once.",
            )


def _shared(first: Manifest, second: Manifest) -> list[tuple[Case, Case]]:
    """Cases of the second that share something with the first, each with the case that it shares it with."""
    known: dict[tuple[str, str], Case] = {}
    for case in first.cases:
        for mark in marks(case):
            known.setdefault(mark, case)
    found = []
    for case in second.cases:
        match = next((known[mark] for mark in marks(case) if mark in known), None)
        if match is not None:
            found.append((case, match))
    return found


def marks(case: Case) -> list[tuple[str, str]]:
    """What two cases must not share if they are to be on two sides: the files of their images, and their subject."""
    return [*(("image", ref.sha256) for ref in case.images.values()), ("subject", case.subject)]
