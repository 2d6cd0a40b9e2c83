"""What a result takes over from the headers of its series about patient and study, valid or else said by name.

An attribute that tells whose the result is (a name, an identifier) is never changed: a shortened one may be another
patient's. Texts here name attributes and hold none of their values, which may name a patient.
"""

from __future__ import annotations

import re
from datetime import date

from pydicom import config
from pydicom.datadict import dictionary_VM, dictionary_VR
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.valuerep import validate_value

from medae.formats.dicom.headers import UNREADABLE

REQUIRED = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime"),
    *("ReferringPhysicianName", "StudyID", "AccessionNumber", "PositionReferenceIndicator"),
)
"""Type 2: must be there, may be empty."""

OPTIONAL = (
    *("IssuerOfPatientID", "PatientAge", "PatientSize", "PatientWeight", "StudyDescription"),
    *("Laterality", "PatientIdentityRemoved", "DeidentificationMethod", "DeidentificationMethodCodeSequence"),
)
"""The rest of the patient and study modules is left where it is: a result needs no more of it."""

IDENTITY = {"PatientName", "PatientID", "IssuerOfPatientID", "StudyID", "AccessionNumber"}

TERMS = {"PatientSex": ("M", "F", "O"), "Laterality": ("L", "R"), "PatientIdentityRemoved": ("YES", "NO")}

CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def repaired(headers: Dataset) -> tuple[Dataset, list[str]]:
    """The attributes of patient and study for a result of the series that has ``headers``, and what was wrong with them."""
    result, remarks = Dataset(), []
    for keyword in (*REQUIRED, *OPTIONAL):
        found, is_valid = value_of(headers, keyword)
        if keyword not in headers:
            if keyword in REQUIRED:
                remarks.append(f"{keyword}: not in the series; written empty.")
        elif is_valid or (keyword in IDENTITY and found is not None):
            setattr(result, keyword, found)
            if not is_valid:
                remarks.append(f"{keyword}: not valid in the series; kept as it is, since it tells whose the result is.")
        else:
            remarks.append(f"{keyword}: not valid in the series; {'written empty' if keyword in REQUIRED else 'left out'}.")
        if keyword in REQUIRED and keyword not in result:
            setattr(result, keyword, None)
    methods = ("DeidentificationMethod", "DeidentificationMethodCodeSequence")
    if result.get("PatientIdentityRemoved") == "YES" and not any(result.get(method) for method in methods):
        result.DeidentificationMethod = "unknown"
        remarks.append("DeidentificationMethod: not stated in the series; written as 'unknown'.")
    return result, remarks


def value_of(headers: Dataset, keyword: str) -> tuple[object, bool]:
    """The value of an attribute and whether it is valid. None if there is none, which is valid, or it cannot be decoded."""
    try:
        value = headers[keyword].value if keyword in headers else None
    except UNREADABLE:
        return None, False
    if keyword in TERMS and isinstance(value, str):
        value = value.strip().upper()
    return value, is_valid_value(keyword, value)


def is_valid_value(keyword: str, value: object) -> bool:
    """Whether a value is one of its value representation, multiplicity and defined terms. Nothing is always valid."""
    representation = dictionary_VR(keyword)
    if representation == "SQ":
        return True
    parts = list(value) if isinstance(value, MultiValue) else [value]
    if len(parts) > 1 and dictionary_VM(keyword) == "1":
        return False
    texts = ["" if part is None else str(part) for part in parts]
    terms = TERMS.get(keyword)
    return all(_is_valid_text(representation, each) and (not terms or not each or each in terms) for each in texts)


def _is_valid_text(representation: str, text: str) -> bool:
    if not text:
        return True
    is_range = representation in ("DA", "TM") and "-" in text  # for queries only
    if is_range or CONTROL.search(text):
        return False
    try:
        validate_value(representation, text, config.RAISE)
        if representation == "DA":
            date.fromisoformat(text)
    except ValueError:
        return False
    return True
