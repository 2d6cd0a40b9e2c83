"""The table of codes says what the standard's dictionary says, and a user's own entries go first."""

from __future__ import annotations

import pytest
from pydicom.sr import _concepts_dict

from medae.config import to_dict, validate
from medae.errors import ConfigError
from medae.export.dicom.codes import Code, SegmentCode, _table, segment_code

LIVER = Code(scheme="SCT", value="10200004", meaning="Liver")


def test_every_shipped_code_is_in_the_standard_with_its_meaning():
    known: dict[str, set[str]] = {}
    for meanings in _concepts_dict.concepts["SCT"].values():
        for value, (meaning, _) in meanings.items():
            known.setdefault(value, set()).add(meaning.lower())
    table = _table()
    parts = [part for each in table.segments.values() for part in (each.category, each.type, each.region) if part]
    for code in [*table.sides.values(), *parts]:
        assert code.scheme == "SCT"
        assert code.meaning.lower() in known[code.value]


@pytest.mark.parametrize(
    ("name", "meaning", "modifier"),
    [
        ("liver", "Liver", None),
        ("LUNG NODULE", "Nodule", None),
        ("kidney_left", "Kidney", "Left"),
        ("Right-kidney", "Kidney", "Right"),
        ("hippocampus (posterior)", "Hippocampus", "Posterior"),
        ("Gray matter", "Gray Matter", None),
        ("anomaly", "Morphologically Abnormal Structure", None),
    ],
)
def test_a_name_is_found_without_case_signs_and_order(name, meaning, modifier):
    code = segment_code(name, {})
    assert code is not None
    assert (code.type.meaning, code.modifier and code.modifier.meaning) == (meaning, modifier)


@pytest.mark.parametrize("name", ["", "left", "left right kidney", "class 1", "anterior", "Ω"])
def test_a_name_that_says_too_little_has_no_code(name):
    assert segment_code(name, {}) is None


def test_own_entries_go_before_the_shipped_ones_and_take_sides():
    own = SegmentCode.model_validate({"type": "99MINE K Kidney of ours"})
    code = segment_code("left kidney", {"Kidney": own})
    assert code is not None and code.modifier is not None
    assert (code.type.scheme, code.modifier.meaning, code.category.meaning) == ("99MINE", "Left", "Anatomical Structure")
    assert segment_code("left kidney", {"left kidney": own}) == own


def test_a_code_is_a_text_or_its_parts_and_comes_back_from_yaml():
    code = validate(
        SegmentCode, {"type": "SCT 10200004 Liver", "region": {"scheme": "SCT", "value": "1", "meaning": "x"}}, "f"
    )
    assert code.type == LIVER
    assert validate(SegmentCode, to_dict(code)) == code


@pytest.mark.parametrize("text", ["SCT 10200004", "SCT 12345678901234567 Long", "SCT 1 " + "x" * 65, "SCT 1 a\\b", 7])
def test_what_is_no_code_is_named(text):
    with pytest.raises(ConfigError, match="type"):
        validate(SegmentCode, {"type": text})
