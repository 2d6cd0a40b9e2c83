"""The net, for the documentation's commands: a server on this machine that has one small data set at every address."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from monai.apps.datasets import DecathlonDataset
from webserver import Web

from medae.data.catalogue import KNOWN

PLACEHOLDER = "SHA256"


@contextmanager
def served(data: Path, arguments: list[str], patch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Let ``medae data get`` fetch ``data`` packed as an archive; yields its arguments, the placeholder replaced.

    Addresses, MONAI's tables and the command are used as they are: only the server's name is replaced when a request is
    sent, and in MONAI's table the checksums, which are those of the true archives. The folder in MEDAE_DATA becomes one
    that has all the data sets but that which is fetched, and stays so.
    """
    archive = packed(data)
    with_room(arguments[2], patch)
    server, get = Web(), requests.get
    with patch.context() as inner:

        def here(url: str, **options: Any) -> requests.Response:
            path = urlsplit(url).path
            server.put(path.lstrip("/"), archive)
            return get(f"http://{server.host}{path}", **options)

        inner.setenv("NO_PROXY", "127.0.0.1")
        inner.setenv("no_proxy", "127.0.0.1")
        inner.setattr(requests, "get", here)
        for task in DecathlonDataset.md5:
            inner.setitem(DecathlonDataset.md5, task, hashlib.md5(archive).hexdigest())
        try:
            yield [hashlib.sha256(archive).hexdigest() if word == PLACEHOLDER else word for word in arguments]
        finally:
            server.stop()


def packed(data: Path) -> bytes:
    """A data set as a tar archive with one folder at its top."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.add(data, arcname="Task")
    return stream.getvalue()


def with_room(wanted: str, patch: pytest.MonkeyPatch) -> None:
    """Make the working folder's ``public`` the folder of data sets, if it is not yet."""
    before, now = Path(os.environ["MEDAE_DATA"]), Path("public").absolute()
    if before != now:
        now.mkdir()
        for child in before.iterdir():
            if child.name != wanted or wanted not in KNOWN:
                (now / child.name).symlink_to(child)
        patch.setenv("MEDAE_DATA", str(now))
