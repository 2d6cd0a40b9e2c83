"""A file from the web that arrives whole or not at all, however often the connection breaks.

Why own code, when MONAI (``download_url``) and pooch fetch files: both begin at the first byte after every interruption,
because they write to a temporary file that is thrown away. A data set of 29 GB then never arrives over a line that drops
once an hour. HTTP itself (proxies, redirects, certificates, ``.netrc``) is left to requests; what is here is the going on: a
request for the rest that the server may only answer if the file is still the same (``Range`` with ``If-Range``, RFC 9110,
sections 13.1.5 and 14). Addresses of the Decathlon and its checksums are MONAI's: see ``catalogue``.
"""

from __future__ import annotations

import errno
import hashlib
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import requests
from rich.filesize import decimal
from urllib3.exceptions import HTTPError, NameResolutionError

import medae
from medae.data.part import Checksum, Part, Version, public_url, url_digest
from medae.errors import DataError

CHUNK = 1 << 20
TIMEOUT = (15.0, 60.0)  # s: to connect, and between two bytes
PAUSES = (1.0, 2.0, 5.0, 15.0)  # s, before each further try that brings nothing new
PATIENCE = 60.0  # s: the longest pause that a server may ask for
PASSING = (408, 425, 429, 500, 502, 503, 504)  # answers that another try may change
FULL = (errno.ENOSPC, errno.EDQUOT)
GOES_ON = "The same command goes on from what has arrived."

Progress = Callable[[int, int | None], None]


class _Interrupted(Exception):
    """The connection was lost, or the server asks to wait. wait: s, as the server asked."""

    def __init__(self, what: str, wait: float = 0.0) -> None:
        super().__init__(what)
        self.wait = wait


def fetch(
    url: str,
    part: Part,
    expected: Sequence[Checksum] = (),
    *,
    copies: int = 1,
    progress: Progress | None = None,
    note: Callable[[str], None] | None = None,
) -> None:
    """Complete ``part`` from ``url``; what has arrived earlier is kept if the server still has the same file.

    expected: checksums that ``verify`` will ask for; a part that failed one of them earlier begins anew. copies: how many
    times the file's size has to fit on the disk, 2 if it will be unpacked beside. progress: called with the bytes that
    are there and their number in all, None where the server does not say. note: told of each further try.
    Raises DataError if the server refuses or cannot be reached, after several tries, or if the disk is too small.
    """
    part.drop_if_useless(url, expected)
    failures, best = 0, part.size
    while not part.is_whole():
        try:
            _attempt(url, part, copies, progress or (lambda done, total: None))
        except _Interrupted as broken:
            failures = 1 if part.size > best else failures + 1
            best = max(best, part.size)
            if failures > len(PAUSES):
                raise DataError(
                    f"{broken} Tried {failures} times without getting further than {decimal(best)}.",
                    where=public_url(url),
                    remedy=f"Try again later. {GOES_ON}",
                ) from broken
            pause = min(max(PAUSES[failures - 1], broken.wait), PATIENCE)
            if note:
                note(f"{broken} {decimal(part.size)} are there; trying again in {pause:.0f} s.")
            time.sleep(pause)


def _attempt(url: str, part: Part, copies: int, progress: Progress) -> None:
    """One request, for the rest of the file or for all of it. Raises _Interrupted when another may do better."""
    start, validator = part.resumable()
    headers = {"Accept-Encoding": "identity", "User-Agent": f"medae/{medae.__version__}"}
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": validator}
    with _opened(url, headers, first=not part.size) as response:
        version = _version(response, url)
        if start and response.status_code in (206, 416):
            if not _goes_on(response, start, part.version, version):
                part.remove()  # another file, or a server that counts differently: the next request asks for all of it
                return
            if response.status_code == 416:
                part.complete()  # it had all arrived, but the server had not said how much that would be
                return
        else:
            _refuse(response, url)
            start = 0
            part.begin(version)
        size = part.version.size if part.version else None
        if size is not None:
            need_room(part.file.parent, copies * size - start, "the archive and what is in it" if copies > 1 else "the file")
        progress(start, size)
        with disk(part.file), part.file.open("ab") as file:
            for chunk in _chunks(response):
                file.write(chunk)
                file.flush()  # what has arrived stays when the process is killed
                progress(file.tell(), size)
    if size is None:
        part.complete()
    elif part.size < size:
        raise _Interrupted(f"The server announced {decimal(size)} and sent less.")
    elif part.size > size:
        part.remove()
        raise DataError("The server sent more than it had announced.", where=public_url(url), remedy="Try again.")


@contextmanager
def _opened(url: str, headers: dict[str, str], first: bool) -> Iterator[requests.Response]:
    """The answer, its body still to be read. first: nothing has come from there yet, so a wrong name is not a lost line.

    The texts of requests' own errors hold the whole address, with its secrets, and are therefore not shown.
    """
    where = public_url(url)
    try:
        response = requests.get(url, headers=headers, stream=True, timeout=TIMEOUT)
    except requests.exceptions.SSLError as error:
        remedy = "Where a proxy of your institution reads along, set REQUESTS_CA_BUNDLE to the file of its certificates."
        raise DataError("The server's certificate is not trusted.", where=where, remedy=remedy) from error
    except (requests.ConnectionError, requests.Timeout) as error:
        reason = getattr(error.args[0] if error.args else None, "reason", None)
        if first and isinstance(reason, NameResolutionError):
            remedy = "Check the address and the network; behind a proxy, set HTTPS_PROXY."
            raise DataError("The server's name is not known.", where=where, remedy=remedy) from error
        raise _Interrupted("The server cannot be reached.") from error
    except requests.RequestException as error:
        raise DataError("The address cannot be used.", where=where, remedy="Correct it, or use another one.") from error
    with response:
        yield response


def _chunks(response: requests.Response) -> Iterator[bytes]:
    """The bytes as they come, not collected to blocks that a lost connection would take along, and as they are on the
    server: a .tar.gz that it calls "encoded" is not decompressed on the way.
    """
    try:
        while chunk := response.raw.read1(CHUNK, decode_content=False):
            yield chunk
    except (HTTPError, requests.RequestException) as error:
        raise _Interrupted("The connection was lost.") from error


def _version(response: requests.Response, url: str) -> Version:
    """What the answer says of the whole file. Raises nothing: what is missing or no number is None."""
    length = re.fullmatch(r"\d+", response.headers.get("Content-Length", ""))
    return Version(
        url=public_url(url),
        url_sha256=url_digest(url),
        etag=response.headers.get("ETag"),
        modified=response.headers.get("Last-Modified"),
        size=int(length[0]) if length else None,
    )


def _goes_on(response: requests.Response, start: int, before: Version | None, now: Version) -> bool:
    """Whether an answer to a request for the rest goes with what was begun: the rest (206), or that there is none (416)."""
    pattern = rf"bytes \*/({start})" if response.status_code == 416 else rf"bytes {start}-\d+/(\d+|\*)"
    match = re.fullmatch(pattern, response.headers.get("Content-Range", ""))
    if before is None or match is None:
        return False
    if before.url_sha256 != now.url_sha256:  # nothing else says that it is the same file
        return before.strong_etag is not None and now.etag == before.etag and match[1] == str(before.size)
    same_size = match[1] == "*" or before.size in (None, int(match[1]))
    same_tag = not now.etag or now.etag == before.etag
    return same_size and same_tag and (not now.modified or now.modified == before.modified)


def _refuse(response: requests.Response, url: str) -> None:
    """Raise what an answer other than the file means."""
    status = response.status_code
    if status in PASSING:
        wait = response.headers.get("Retry-After", "")
        raise _Interrupted(f"The server is busy (status {status}).", float(wait) if wait.isdigit() else 0.0)
    if status in (401, 403):
        what, remedy = "does not give the file to everybody", "Log in at its source, accept its terms, or ask for access."
    elif status in (404, 410):
        what, remedy = "does not have the file", "Check the address at the data set's source."
    elif status != 200:
        what, remedy = "answers with something else than the file", "Check the address at the data set's source."
    else:
        return
    raise DataError(f"The server {what} (status {status}).", where=public_url(url), remedy=remedy)


def verify(part: Part, expected: Sequence[Checksum], progress: Progress | None = None) -> dict[str, str]:
    """The MD5 and the SHA-256 of a whole part, by kind, after comparing them with those that are expected.

    Raises DataError if one differs: the part stays, to be compared with another checksum (a slip in the first must not
    cost hours of transfer), but is never used, and begins anew when it is fetched for the same one.
    """
    found = {"md5": hashlib.md5(usedforsecurity=False), "sha256": hashlib.sha256()}
    done, size = 0, part.size
    with part.file.open("rb") as file:
        while chunk := file.read(CHUNK):
            for digest in found.values():
                digest.update(chunk)
            done += len(chunk)
            if progress:
                progress(done, size)
    digests = {kind: digest.hexdigest() for kind, digest in found.items()}
    for checksum in expected:
        if digests[checksum.kind] != checksum.hex:
            part.refuse(checksum)
            raise DataError(
                f"The file that arrived has another {checksum.kind}: {digests[checksum.kind]}, not {checksum.hex}.",
                where=part.file.name,
                remedy="It was not unpacked. Check the checksum; the same command fetches the file from the beginning.",
            )
    return digests


def need_room(folder: Path, needed: int, what: str) -> None:
    """Raise DataError if ``needed`` bytes do not fit on the disk of ``folder``."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DataError(
            f"The disk is too small: {decimal(needed)} more are needed for {what}, {decimal(free)} are free.",
            remedy=f"Make room, or choose a folder on another disk with --to. {GOES_ON}",
        )


@contextmanager
def disk(path: Path) -> Iterator[None]:
    """A disk that fills up while ``path`` is written is a user's error."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise DataError("The disk is full.", where=path.name, remedy=f"Make room. {GOES_ON}") from error
