"""What a result is called and what made it."""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass

import numpy as np

from medae import __version__


@dataclass(frozen=True)
class Algorithm:
    """What made a result. digest: SHA-256 of the model, hexadecimal. name, version: of the program.

    No text is longer than 64 characters.
    """

    digest: str
    name: str = "medae"
    version: str = __version__


def uid_of(*parts: str) -> str:
    """A UID that is a function of ``parts``: 2.25 and the number of a UUID (PS3.5, B.2). Nothing can be read from it."""
    hashed = hashlib.sha256("\0".join(parts).encode()).digest()
    return f"2.25.{uuid.UUID(bytes=hashed[:16], version=5).int}"


def digest_of(array: np.ndarray) -> str:
    """SHA-256 of an array's values, hexadecimal."""
    digest = hashlib.sha256()
    for part in array:
        digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()
