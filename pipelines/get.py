"""``medae data``: public data sets that are known by name, and fetching one of them, or any archive by its address."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from rich.filesize import decimal

import medae
from medae.data.archive import BadArchive, only_folder, unpack
from medae.data.catalogue import KNOWN, PublicSet
from medae.data.download import GOES_ON, fetch, verify
from medae.data.origin import read_record, stated_licence, write_record
from medae.data.part import Checksum, Part, public_url, url_digest
from medae.data.roots import absolute_root
from medae.errors import DataError
from pipelines.console import Screen, shown
from pipelines.wish import Wish, file_name, wish_of

NOT_STATED = "not stated: check the source"


def list_known(as_json: bool) -> None:
    """Show what ``medae data get`` knows by name."""
    screen = Screen(as_json)
    columns = ["name", "what", "modality", "scans", "labelled", "archive"]
    rows = [[known.name, known.what, known.modality, known.scans, known.labelled, known.size] for known in KNOWN.values()]
    screen.table("Medical Segmentation Decathlon", columns, rows)
    first = next(iter(KNOWN.values()))
    screen.say(f"Licence of all: {first.licence}, {first.licence_url}")
    screen.say(f"Source: {first.home}, fetched from MONAI's copy. Cite {first.cite}")
    screen.say("Next: medae data get NAME")
    screen.json({"sets": [asdict(known) for known in KNOWN.values()]})


def run(
    wanted: str,
    to: Path | None,
    name: str | None,
    checksums: Mapping[str, str | None],
    keep_archive: bool,
    as_json: bool,
) -> dict[str, Any]:
    """Fetch, verify and unpack one data set into ``to``/name; what is there already is left as it is.

    Everything unfinished is in ``to``/name.part, and the folder takes its name when all is done. Raises ConfigError and
    DataError.
    """
    screen = Screen(as_json)
    wish = wish_of(wanted, name, checksums)
    folder = absolute_root(Path()) if to is None else to.expanduser().absolute()
    target, work = folder / wish.name, folder / f"{wish.name}.part"
    record = _present(target, wish)
    fetched = False
    if record is None:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(work), _going_on(screen):
            record = _present(target, wish)  # another process may just have finished
            if record is None:
                record, fetched = _get(screen, wish, target, work, keep_archive), True
        shutil.rmtree(work, ignore_errors=True)
    return _outcome(screen, target, record, fetched)


def _present(target: Path, wish: Wish) -> dict[str, Any] | None:
    """The record of the data set if it is there already, None if its place is free. Raises DataError if it is taken."""
    if not target.exists() and not target.is_symlink():
        return None
    record = read_record(target) if target.is_dir() else None
    if record is None:
        if target.is_dir() and not any(target.iterdir()):
            return None
        problem = "is there already, and was not fetched by medae"
    elif not wish.is_met_by(record):
        problem = "holds a data set from another source"
    elif any(record.get(checksum.kind) != checksum.hex for checksum in wish.expected):
        problem = "holds the data set, but from an archive with another checksum"
    else:
        return record
    raise DataError(
        f"The folder {problem}.",
        where=shown(target),
        remedy="It is left as it is. Use it, or choose another place with --to or --name.",
    )


@contextmanager
def _alone(work: Path) -> Iterator[None]:
    """Keep a second process from the same data set. Its lock lies in the folder of what is unfinished, and goes with it."""
    work.mkdir(exist_ok=True)
    try:
        with FileLock(work / ".lock", timeout=0):
            yield
    except Timeout as error:
        remedy = "Wait for it, or choose another place with --to."
        raise DataError("Another process is fetching this data set.", where=shown(work), remedy=remedy) from error


@contextmanager
def _going_on(screen: Screen) -> Iterator[None]:
    """Say to a person who interrupts that nothing is lost."""
    try:
        yield
    except KeyboardInterrupt:
        screen.note(GOES_ON)
        raise


def _get(screen: Screen, wish: Wish, target: Path, work: Path, keep_archive: bool) -> dict[str, Any]:
    """Fetch, verify, unpack, and give the folder its name; returns the record that is stored in it."""
    url, expected = _address(screen, wish)
    screen.note(f"Source: {public_url(url)}")
    screen.note(f"Licence: {_licence(wish.known) or 'known when it is unpacked; check the source before you use the data'}")
    screen.note(f"To: {shown(target)}")
    kept = target.parent / file_name(url)
    if keep_archive and kept.exists():
        remedy = "Move it, or leave out --keep-archive."
        raise DataError("A file of the archive's name is there already.", where=shown(kept), remedy=remedy)
    part = Part(work / (file_name(url) or wish.name))
    if part.size and not part.is_whole():
        screen.note(f"Going on after {decimal(part.size)}.")
    with screen.transfer("Fetching") as report:
        fetch(url, part, expected, copies=2, progress=report, note=screen.note)
    with screen.transfer("Verifying") as report:
        digests = verify(part, expected, report)
    if not expected:
        screen.warn(
            f"No checksum was given, so only damage that breaks the archive is noticed. SHA-256: {digests['sha256']}"
        )
    unpacked = work / ".unpacked"
    shutil.rmtree(unpacked, ignore_errors=True)
    with screen.transfer("Unpacking") as report:
        try:
            content = unpack(part.file, unpacked, report)
        except BadArchive:
            part.remove()  # the next try asks the server again: it may have a better one by then
            raise
    data, layout = _recognised(screen, unpacked)
    record = {
        "name": wish.name,
        "set": wish.known.task if wish.known else None,
        "url": public_url(url),
        "url_sha256": url_digest(url),
        **digests,
        "bytes": part.size,
        "files": content.files,
        "layout": layout,
        "licence": _licence(wish.known) or stated_licence(data) or NOT_STATED,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "medae": medae.__version__,
    }
    write_record(data, record, layout)
    if hasattr(os, "sync"):
        os.sync()  # a folder that has its name is whole, after a power cut too
    if target.is_dir():
        target.rmdir()  # it is empty
    data.rename(target)
    if keep_archive:
        part.file.rename(kept)
    return record


def _address(screen: Screen, wish: Wish) -> tuple[str, tuple[Checksum, ...]]:
    """Where the archive is, and the checksums it has to have: those that were given, and MONAI's."""
    if wish.known is None:
        return wish.url, wish.expected
    about = f"{wish.known.what}, {wish.known.modality}, {wish.known.scans} scans, about {wish.known.size}"
    screen.note(f"{wish.known.task}: {about}. Asking MONAI for its address …")
    url, md5 = wish.known.archive()
    return url, (*wish.expected, Checksum("md5", md5))


def _licence(known: PublicSet | None) -> str | None:
    return None if known is None else f"{known.licence}, {known.licence_url}. Cite {known.cite}"


def _recognised(screen: Screen, unpacked: Path) -> tuple[Path, str | None]:
    """The folder that holds the data set, beneath one that only wraps it, and its layout, if one is known."""
    from medae.data.sources import detect_format

    inner = only_folder(unpacked)
    for folder in (unpacked, inner):
        try:
            if folder is not None:
                return folder, detect_format(folder)
        except DataError as error:
            problem = error
    screen.warn(f"{problem.what} {problem.remedy or ''}".strip())
    return inner or unpacked, None


def _outcome(screen: Screen, target: Path, record: dict[str, Any], fetched: bool) -> dict[str, Any]:
    """Say what is there now and what to do next."""
    folder, layout = shown(target), record.get("layout")
    result = {"folder": folder, "fetched": fetched, **record, "next": f"medae check {shlex.quote(folder)}"}
    if not fetched:
        screen.say(f"{folder} is there already, complete; nothing was fetched.")
    else:
        screen.say(f"{folder}: {record['files']} files, {decimal(record['bytes'])} as an archive, checksum noted.")
    screen.say(f"Layout: {layout or 'not recognised'}")
    screen.say(f"Licence: {record.get('licence')}")
    screen.say(f"Next: {result['next']}")
    screen.json(result)
    return result
