"""Pseudonyms for patients, studies and series: keyed hashes. The key stays with the user, outside of every project."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from pathlib import Path

from platformdirs import user_config_path

from medae.errors import DataError

SALT_VARIABLE = "MEDAE_CASE_SALT"
"""Environment variable with the secret that case ids are hashed with."""

KEY_FILE = "pseudonyms.key"
DIGITS = 12


def key_file() -> Path:
    """Where the key is kept if the environment has none: the user's configuration folder."""
    return user_config_path("medae") / KEY_FILE


def pseudonym_key() -> bytes:
    """The secret in MEDAE_CASE_SALT, else that in the user's key file, which is made on first use, for its owner only.

    Raises DataError if the key file cannot be read or made: ids without a key could be undone by trying names.
    """
    secret = os.environ.get(SALT_VARIABLE)
    if secret:
        return secret.encode()
    path = key_file()
    try:
        if not path.exists():
            _make(path)
        key = path.read_bytes().strip()
    except OSError as error:
        raise _unusable(f"cannot be read or made ({error.strerror})") from error
    if len(key) < 32:
        raise _unusable("is damaged: it holds fewer than 32 characters")
    return key


def pseudonym(key: bytes, kind: str, identity: str) -> str:
    """``kind-`` and 12 hexadecimal digits of the identity's keyed hash (HMAC-SHA-256)."""
    message = f"{kind}\x1f{identity}".encode()
    return f"{kind}-{hmac.new(key, message, hashlib.sha256).hexdigest()[:DIGITS]}"


def _make(path: Path) -> None:
    """Write a new key beside and link it into place: of two processes at once, both then read the one that was first."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    beside = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(f"{secrets.token_hex(32)}\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(beside, path)
        except FileExistsError:
            pass
        except OSError:  # no hard links on this file system
            if not path.exists():
                beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _unusable(problem: str) -> DataError:
    return DataError(
        f"The key of the pseudonyms {problem}.",
        where=f"{KEY_FILE} in medae's folder of your user configuration",
        remedy=f"Set {SALT_VARIABLE} to a secret of your own and keep it, or mend that file.",
    )
