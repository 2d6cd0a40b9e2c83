"""The unfinished file of a download, and the note beside it of what it is a part of."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit, urlunsplit


@dataclass(frozen=True)
class Checksum:
    """A digest that a file has to have, in lower case hexadecimal digits."""

    kind: Literal["md5", "sha256"]
    hex: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.hex}"


@dataclass(frozen=True)
class Version:
    """What a server said of a file.

    url: as ``public_url`` gives it. url_sha256: as ``url_digest`` gives it. size: bytes. refused: checksums it did not have.
    """

    url: str
    url_sha256: str = ""
    etag: str | None = None
    modified: str | None = None
    size: int | None = None
    refused: tuple[str, ...] = ()

    @property
    def strong_etag(self) -> str | None:
        """An ETag that two files only share if they are the same byte by byte."""
        return self.etag if self.etag and not self.etag.startswith("W/") else None


class Part:
    """``file`` grows until it is whole; ``note``, a JSON file beside it, says of which version of which file it is a part.

    The note is written before the first byte and the old bytes are gone before the note: a process that is killed
    anywhere leaves a part that is what its note says, or none.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.note = file.with_name(f"{file.name}.json")
        self.version = self._read() if file.exists() else None

    def _read(self) -> Version | None:
        try:
            content = json.loads(self.note.read_text(encoding="utf-8"))
            return Version(**content | {"refused": tuple(content["refused"])})
        except (OSError, ValueError, TypeError, KeyError):  # no note, or not ours: the part cannot be trusted
            return None

    @property
    def size(self) -> int:
        """Bytes that have arrived."""
        return self.file.stat().st_size if self.file.exists() else 0

    def is_whole(self) -> bool:
        """Whether all of it has arrived."""
        return self.version is not None and self.version.size is not None and self.size == self.version.size

    def resumable(self) -> tuple[int, str]:
        """Byte to go on from, and what the server can tell by that the file is still the same; 0 if it must begin anew.

        A weak ETag does not say that two files are the same byte by byte (RFC 9110, section 8.8.1).
        """
        known = self.version
        if known is None or (known.size is not None and self.size >= known.size):
            return 0, ""
        validator = known.strong_etag or known.modified
        return (self.size, validator) if validator else (0, "")

    def begin(self, version: Version) -> None:
        """Start with no bytes, for a version."""
        self.remove()
        self._write(version)
        self.file.touch()

    def complete(self) -> None:
        """What is there is all: a server that did not announce a size has sent the end."""
        if self.version is not None:
            self._write(replace(self.version, size=self.size))

    def refuse(self, checksum: Checksum) -> None:
        """Note that the whole file does not have a checksum."""
        if self.version is not None:
            self._write(replace(self.version, refused=(*self.version.refused, str(checksum))))

    def drop_if_useless(self, url: str, expected: Sequence[Checksum]) -> None:
        """Remove a part of another file, and one without an expected checksum unless others are expected now.

        Another query may be a new signature or another file: with an expected checksum the part stays, else if the server
        can be asked for a rest, and by the answer's strong ETag and size whether it is of the same file; therefore a
        whole part gives its last byte back.
        """
        known = self.version
        refused = known.refused if known else ()
        is_refused = refused and (not expected or any(str(checksum) in refused for checksum in expected))
        if known is None or known.url != public_url(url) or is_refused:
            self.remove()
        elif known.url_sha256 != url_digest(url):
            if expected:
                self._write(replace(known, url_sha256=url_digest(url)))
            elif known.strong_etag is None or not known.size:
                self.remove()
            elif self.is_whole():
                os.truncate(self.file, known.size - 1)

    def remove(self) -> None:
        """Both files are gone."""
        self.file.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)
        self.version = None

    def _write(self, version: Version) -> None:
        beside = self.note.with_name(f".{self.note.name}.{os.getpid()}")
        beside.write_text(json.dumps(asdict(version)), encoding="utf-8")
        beside.replace(self.note)
        self.version = version


def url_digest(url: str) -> str:
    """The SHA-256 of a whole address with its query, which may say which file is meant, but without user and password."""
    parts = urlsplit(url)
    whole = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, parts.query, ""))
    return hashlib.sha256(whole.encode()).hexdigest()


def public_url(url: str) -> str:
    """An address as it may be shown and stored: without user, password, query and fragment, which may hold secrets."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "..." if parts.query else "", ""))
