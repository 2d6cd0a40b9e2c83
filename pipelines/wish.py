"""What ``medae data get`` is asked for: a data set that is known by name, or an address."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from medae.data.archive import ENDINGS
from medae.data.catalogue import PublicSet, find_known
from medae.data.part import Checksum, public_url, url_digest
from medae.errors import ConfigError

DIGITS = {"sha256": 64, "md5": 32}


@dataclass(frozen=True)
class Wish:
    """What is asked for. name: of the folder. url: empty for a known set, whose address MONAI knows. expected: as given."""

    name: str
    url: str
    expected: tuple[Checksum, ...]
    known: PublicSet | None = None

    def is_met_by(self, record: Mapping[str, object]) -> bool:
        """Whether a data set with this record came from the same source, or from an address that differs in its query
        only, if there is a checksum to be compared.
        """
        if self.known:
            return record.get("set") == self.known.task
        digest = record.get("url_sha256", "" if urlsplit(self.url).query else url_digest(self.url))
        is_same = digest == url_digest(self.url)
        return record.get("url") == public_url(self.url) and (is_same or bool(self.expected))


def wish_of(wanted: str, name: str | None, checksums: Mapping[str, str | None]) -> Wish:
    """What the arguments ask for. Raises ConfigError for a name that is not known and for a checksum that is none."""
    expected = []
    for kind, digits in DIGITS.items():
        text = checksums.get(kind)
        if text is not None:
            if not re.fullmatch(rf"[0-9a-f]{{{digits}}}", text.strip().lower()):
                raise ConfigError(f"A {kind} has {digits} hexadecimal digits.", where=f"--{kind}", remedy="Copy it whole.")
            expected.append(Checksum(kind, text.strip().lower()))  # type: ignore[arg-type]
    if name is not None and not re.fullmatch(r"\w[\w.-]*", name):
        remedy = "Use letters, digits, '.', '-' and '_'; the folder around it is chosen with --to."
        raise ConfigError(f"'{name}' cannot be the name of a folder.", where="--name", remedy=remedy)
    if not re.search(r"[/@]", wanted):
        known = find_known(wanted)
        return Wish(name or known.name, "", tuple(expected), known)
    try:
        is_usable = bool(re.match(r"https?://", wanted, re.IGNORECASE) and urlsplit(wanted).hostname)
    except ValueError:  # as of a server's address with one bracket
        is_usable = False
    if not is_usable:  # not shown: it may hold a password
        raise ConfigError("The address cannot be used.", remedy="Use one that begins with https:// and a server's name.")
    return Wish(name or _folder_name(wanted), wanted, tuple(expected))


def _folder_name(url: str) -> str:
    """The archive's name without its ending."""
    name = file_name(url)
    ending = next((ending for ending in ENDINGS if name.lower().endswith(ending)), "")
    name = name[: len(name) - len(ending)]
    if not name:
        raise ConfigError("The address does not end in a file name.", where=public_url(url), remedy="State --name.")
    return name


def file_name(url: str) -> str:
    """The last part of an address, in letters that are safe in a file name."""
    last = unquote(urlsplit(url).path.rstrip("/").rpartition("/")[2])
    return re.sub(r"[^\w.-]+", "_", last).lstrip("._-")
