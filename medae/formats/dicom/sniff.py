"""Whether a file is DICOM, from its first bytes: names and endings say nothing."""

from __future__ import annotations

from pathlib import Path

PREAMBLE = 128
MAGIC = b"DICM"
FIRST_GROUPS = (b"\x02\x00", b"\x08\x00")
"""Little-endian group of the first element in files without a preamble: file meta information, or identification."""


def is_dicom(path: Path) -> bool:
    """True for a file with DICOM's magic, or that begins like a data set without a preamble. False if it cannot be read."""
    try:
        with path.open("rb") as file:
            start = file.read(PREAMBLE + len(MAGIC))
    except OSError:
        return False
    return has_magic(start) or begins_like_a_data_set(start)


def has_magic(start: bytes) -> bool:
    """DICM after a preamble of 128 bytes (PS3.10, section 7.1)."""
    return start[PREAMBLE:] == MAGIC


def begins_like_a_data_set(start: bytes) -> bool:
    """Group 0002 or 0008, a low element number, and a value representation or a short length."""
    if len(start) < 16 or start[:2] not in FIRST_GROUPS or start[3] != 0:
        return False
    is_explicit = start[4:6].isalpha() and start[4:6].isupper()
    return is_explicit or int.from_bytes(start[4:8], "little") <= 64
