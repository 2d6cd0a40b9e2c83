"""Files of a data set that look like images and were not taken: none is passed over without a word."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from pathlib import Path

from medae.data.files import relative
from medae.data.finding import Finding, some_of
from medae.formats.endings import UNREAD_PICTURES, image_files, is_image, is_picture, is_unread, unread_ending

SHOWN = 3
LOOKED_AT = 500
"""Files that are looked at for a hint."""


def passed_over(
    root: Path, taken: Collection[Path], named: Collection[Path], beneath: Sequence[Path], *, images: bool
) -> list[Finding]:
    """What is to be said of files that were not taken, counted: a warning each for formats that medae does not read and for
    images.

    taken: files of the data set. named: files, and folders of files, of which other findings speak. beneath: folders that
    are searched at any depth. images: whether images that medae could read count, or were left out on purpose. Pictures
    count only in a data set of pictures, and never beside a volume of the same name: elsewhere they are figures and
    previews.
    """
    pictures = any(is_picture(path) for path in taken)
    known = {*taken, *named}
    unread: dict[Path, list[Path]] = {}
    left: dict[Path, list[Path]] = {}
    closed: list[Path] = []
    for folder, names in _walk(beneath, closed):
        paths = [folder / name for name in names]
        found = [path for path in paths if is_unread(path) and path not in known]
        unread[folder] = [path for path in found if pictures or unread_ending(path) not in UNREAD_PICTURES]
        if images and folder not in known and any(is_image(path) for path in paths):
            found = [path for path in image_files(folder) if path not in known]
            left[folder] = [path for path in found if pictures or not is_picture(path)]
    findings = []
    if closed:
        text = f"{len(closed)} folders are links or cannot be read, and are passed over"
        remedy = "Give yourself the right to read them, or put the folder itself in the place of its link."
        places = some_of([relative(path, root) for path in closed], SHOWN)
        findings.append(Finding("", places, "warning", "closed-folder", text, remedy))
    if any(unread.values()):
        endings = ", ".join(sorted({unread_ending(path) for paths in unread.values() for path in paths}))
        text = f"{_count(unread)} passed over: a format that is not read ({endings})"
        remedy = "Convert them to NIfTI (.nii.gz); DICOM goes in a folder of its own. Nothing to do if they are no scans."
        findings.append(Finding("", _places(root, unread), "warning", "unread-format", text, remedy))
    if any(left.values()):
        text = f"{_count(left)} passed over: an image that no list, name or pattern makes part of a case"
        remedy = "Nothing to do, or name the folders or patterns that they are found by (docs/how-to/own-data.md)."
        findings.append(Finding("", _places(root, left), "warning", "passed-over", text, remedy))
    return findings


def hint(root: Path) -> str:
    """What to do about a folder without a recognised layout, from what lies in it; empty if that says nothing."""
    files = (folder / name for folder, names in _walk([root], []) for name in names)
    looked_at = list(islice(files, LOOKED_AT))
    deeper = next((path for path in looked_at if is_image(path) and path.parent != root), None)
    if deeper is not None:
        place = relative(deeper.parent, root)
        pattern = "/".join("*" for _ in deeper.relative_to(root).parts)
        return (
            f"There are images in '{place}': name that folder itself, or, if the folders are cases, use --format folder "
            f"--set 'image_pattern=\"{pattern}\"', with a star for each part that differs, and label_pattern for label maps."
        )
    unread = next((path for path in looked_at if is_unread(path)), None)
    if unread is not None:
        return f"There are {unread_ending(unread)} files, a format that is not read: convert them to NIfTI (.nii.gz)."
    return ""


def _walk(beneath: Sequence[Path], closed: list[Path]) -> Iterator[tuple[Path, list[str]]]:
    """Folders at any depth and the files in each, ordered, without hidden ones. closed: gets those that are not searched."""
    for top in beneath:
        for folder, folders, names in os.walk(top, onerror=lambda error: closed.append(Path(error.filename))):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            closed.extend(Path(folder, name) for name in folders if Path(folder, name).is_symlink())
            yield Path(folder), sorted(name for name in names if not name.startswith("."))


def _count(found: dict[Path, list[Path]]) -> str:
    count = sum(map(len, found.values()))
    return f"{count} files are" if count > 1 else "1 file is"


def _places(root: Path, found: dict[Path, list[Path]]) -> str:
    """Some of the files, of as many folders as can be, for the screen."""
    first = [paths[0] for paths in found.values() if paths]
    others = [path for paths in found.values() for path in paths[1:]]
    return some_of([relative(path, root) for path in [*first, *others]], SHOWN)
