"""Codes for what a segment is and what a map measures: a shipped table by name, which a user's own entries go before."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Annotated, Any

import yaml
from highdicom.sr import CodedConcept
from pydantic import Field, model_validator

from medae.config import Config

Short = Annotated[str, Field(min_length=1, max_length=16, pattern=r"^[^\\\s]+$")]


class Code(Config):
    """A coded concept (PS3.3, 8.8). In YAML also a text: scheme, value and meaning with blanks between.

    scheme: such as SCT (SNOMED CT), DCM, UCUM, or one of a user's own that begins with 99.
    """

    scheme: Short
    value: Short
    meaning: str = Field(min_length=1, max_length=64, pattern=r"^[^\\\r\n]+$")

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, content: Any) -> Any:
        if not isinstance(content, str):
            return content
        parts = content.split(maxsplit=2)
        if len(parts) != 3:
            raise ValueError("a code is 'scheme value meaning', such as 'SCT 10200004 Liver'")
        return dict(zip(("scheme", "value", "meaning"), parts, strict=True))

    def concept(self) -> CodedConcept:
        """The same for highdicom."""
        return CodedConcept(self.value, self.scheme, self.meaning)


class SegmentCode(Config):
    """What a segment is: category (CID 7150), type (CID 7151), a modifier such as a side, the region that it lies in."""

    category: Code = Code(scheme="SCT", value="91723000", meaning="Anatomical Structure")
    type: Code
    modifier: Code | None = None
    region: Code | None = None


class _Table(Config):
    sides: dict[str, Code]
    segments: dict[str, SegmentCode]


_TISSUE = Code(scheme="SCT", value="85756007", meaning="Tissue")
GENERIC = SegmentCode(category=_TISSUE, type=_TISSUE)
"""For names that no table has: the widest type there is, as other programs write it."""

ANOMALY_SCORE = Code(scheme="99MEDAE", value="ANOMALY", meaning="Anomaly score")
"""No public scheme has a code for it."""

DISAGREEMENT = Code(scheme="99MEDAE", value="DISAGREE", meaning="Disagreement of networks")
"""Mutual information as a share of its largest value."""

NO_UNITS = Code(scheme="UCUM", value="1", meaning="no units")


def segment_code(name: str, codes: Mapping[str, SegmentCode]) -> SegmentCode | None:
    """The code of a label's name: of ``codes`` first, else of the shipped table, else None.

    Case, signs and the place of a side are of no account: ``Kidney_left`` is ``left kidney``.
    """
    own = {_plain(key): code for key, code in codes.items()}
    wanted, table = _plain(name), _table()
    for known in (own, table.segments):
        if wanted in known:
            return known[wanted]
    words = wanted.split()
    sides = [word for word in words if word in table.sides]
    rest = " ".join(word for word in words if word not in table.sides)
    found = own.get(rest) or table.segments.get(rest)
    if found is None or len(sides) != 1 or found.modifier is not None:
        return None
    return found.model_copy(update={"modifier": table.sides[sides[0]]})


@cache
def _table() -> _Table:
    text = resources.files("medae.export.dicom").joinpath("codes.yaml").read_text(encoding="utf-8")
    return _Table.model_validate(yaml.safe_load(text))


def _plain(name: str) -> str:
    return " ".join(re.findall(r"[^\W_]+", name.casefold()))
