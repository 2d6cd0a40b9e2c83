"""Unpack an archive that came from elsewhere: nothing leaves the folder, and a damaged archive writes nothing.

Files are written one by one, under names that were checked, and no link is ever made: a link within the archive becomes a
copy of what it points to. ``tarfile``'s own data filter makes links, and was led out of the folder through them more than
once (CVE-2025-4330, CVE-2025-4517).
"""

from __future__ import annotations

import lzma
import posixpath
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, NoReturn

from medae.data.download import CHUNK, Progress, disk, need_room
from medae.errors import DataError

ENDINGS = (".tar.gz", ".tar.bz2", ".tar.xz", ".tgz", ".tar", ".zip")
MADE_BY_MACOS = re.compile(r"\._.*|__MACOSX|\.DS_Store")
DAMAGED = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, UnicodeError)  # and see unpack
LINK_STEPS = 8


class BadArchive(DataError):
    """An archive that is damaged, unsafe, or none: fetching it again is the only thing that may help."""


@dataclass(frozen=True)
class Unpacked:
    """What came out of an archive. size: bytes."""

    files: int
    size: int


def unpack(archive: Path, folder: Path, progress: Progress | None = None) -> Unpacked:
    """Unpack a .tar (compressed or not) or .zip, recognised by its content, into ``folder``, which is made.

    The whole archive is looked through first: an archive that ends early, names a file outside of the folder, or does not
    fit on the disk is refused before anything is written. Files that macOS adds (``._*``, ``__MACOSX``) and empty folders
    are left out. progress: called with bytes written and in all. Raises BadArchive, and DataError for what is not its fault.
    """
    try:
        with _opened(archive) as reader:
            entries = reader.entries()
            total = sum(entry.size for entry in entries.values())
            if not entries:
                raise BadArchive("The archive holds no files.", where=archive.name, remedy="Check its address.")
            folder.mkdir(parents=True)
            need_room(folder, total, f"the {len(entries)} files of the archive")
            done = 0
            for name, entry in entries.items():
                path = folder / name
                with disk(path):
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with reader.open(entry) as source, path.open("xb") as sink:
                        while chunk := source.read(CHUNK):
                            sink.write(chunk)
                            done += len(chunk)
                            if progress:
                                progress(done, total)
    except DAMAGED as error:
        _damaged(archive, error)
    except NotImplementedError as error:
        what = "The archive is compressed in a way that cannot be read here."
        raise DataError(what, where=archive.name, remedy="Unpack it with another program.") from error
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise _unsafe(archive, "holds a file and a folder of one name", Path(str(error.filename)).name) from error
    except OSError as error:
        if error.errno is not None:
            raise
        _damaged(archive, error)  # gzip and bz2 say it with an OSError without a number
    if done != total:
        _damaged(archive, None)
    return Unpacked(len(entries), total)


@dataclass(frozen=True)
class _Entry:
    """A file in an archive, where its content is, and how many bytes that has."""

    content: tarfile.TarInfo | zipfile.ZipInfo
    size: int


class _Tar:
    """A tar archive, compressed or not."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = tarfile.open(path, "r:*")  # noqa: SIM115 (closed by __exit__)

    def __enter__(self) -> _Tar:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def entries(self) -> dict[PurePosixPath, _Entry]:
        """Every file by its checked name. Reads the archive to its end."""
        members = self.file.getmembers()
        self._require_end()
        by_name = {posixpath.normpath(member.name): member for member in members}
        found = {}
        for member in members:
            if not member.isdir() and (name := _checked(member.name, self.path)) is not None:
                content = self._content(member, by_name)
                found[name] = _Entry(content, content.size)  # the last of two files of one name counts, as for tar
        return found

    def _require_end(self) -> None:
        """A tar ends in a block of zeros; ``tarfile`` takes an end without it, or a damaged header, for the end as well."""
        stream = self.file.fileobj
        assert stream is not None
        stream.seek(self.file.offset)
        if stream.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
            raise tarfile.ReadError("no end of archive")
        while stream.read(CHUNK):
            pass  # the checksum of a compressed file is at its end

    def _content(self, member: tarfile.TarInfo, by_name: Mapping[str, tarfile.TarInfo]) -> tarfile.TarInfo:
        """The regular file that a member is, or that its links lead to within the archive."""
        found: tarfile.TarInfo | None = member
        for _ in range(LINK_STEPS):
            if found is None or not (found.issym() or found.islnk()):
                break
            at = posixpath.dirname(found.name) if found.issym() else ""
            found = by_name.get(posixpath.normpath(posixpath.join(at, found.linkname)))
        if found is None or not found.isreg():
            what = "a link that leads out of it" if member.issym() or member.islnk() else "something that is no file"
            raise _unsafe(self.path, f"holds {what}", member.name)
        return found

    def open(self, entry: _Entry) -> IO[bytes]:
        """The content of an entry."""
        assert isinstance(entry.content, tarfile.TarInfo)
        stream = self.file.extractfile(entry.content)
        assert stream is not None  # a regular file
        return stream


class _Zip:
    """A zip archive."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = zipfile.ZipFile(path)

    def __enter__(self) -> _Zip:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def entries(self) -> dict[PurePosixPath, _Entry]:
        """Every file by its checked name, from the directory at the archive's end."""
        found = {}
        for info in self.file.infolist():
            if info.is_dir() or (name := _checked(info.filename, self.path)) is None:
                continue
            mode = info.external_attr >> 16
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
                raise _unsafe(self.path, "holds a link or something else that is no file", info.filename)
            if info.flag_bits & 0x1:
                raise DataError("The archive is locked with a password.", where=self.path.name, remedy="Unpack it by hand.")
            found[name] = _Entry(info, info.file_size)
        return found

    def open(self, entry: _Entry) -> IO[bytes]:
        """The content of an entry; reading it to the end compares its checksum."""
        assert isinstance(entry.content, zipfile.ZipInfo)
        return self.file.open(entry.content)


def _opened(archive: Path) -> _Tar | _Zip:
    """The archive, by its content. A tar may end in a stored zip, never the other way round: tar is tried first."""
    try:
        return _Tar(archive)
    except tarfile.ReadError:
        if zipfile.is_zipfile(archive):
            return _Zip(archive)
    with archive.open("rb") as file:
        begin = file.read(512).lstrip().lower()
    is_page = begin.startswith((b"<!doctype html", b"<html"))
    found = "a web page, perhaps one to log in" if is_page else "neither a tar nor a zip archive, or it is cut short"
    remedy = "Use the address of the file itself, which may need a log-in in a browser."
    raise BadArchive(f"What arrived is {found}.", where=archive.name, remedy=remedy)


def _checked(name: str, archive: Path) -> PurePosixPath | None:
    """A file's name as a path beneath the folder, None for what macOS adds. Raises DataError for one that leads out."""
    written = name.replace("\\", "/")  # as some programs for Windows write it
    path = PurePosixPath(written)
    if any(MADE_BY_MACOS.fullmatch(part) for part in path.parts):
        return None
    if (
        path.is_absolute()
        or ".." in path.parts
        or not path.parts
        or re.match(r"[A-Za-z]:|.*[\x00-\x1f]", written, re.DOTALL)
    ):
        raise _unsafe(archive, "holds a name that leads out of its folder, or is none", name)
    return path


def _unsafe(archive: Path, what: str, name: str) -> BadArchive:
    return BadArchive(
        f"The archive {what}: {name!r}. It was not unpacked.",
        where=archive.name,
        remedy="Do not trust it; ask where it comes from.",
    )


def _damaged(archive: Path, error: Exception | None) -> NoReturn:
    raise BadArchive(
        "The archive is damaged or ends early. It was not unpacked.",
        where=archive.name,
        remedy="Fetch it again; with a checksum (--sha256), damage is found earlier.",
    ) from error


def only_folder(folder: Path) -> Path | None:
    """The folder that is all that is in ``folder``, None if there is more or less."""
    children = list(folder.iterdir())
    return children[0] if len(children) == 1 and children[0].is_dir() else None
