"""Files of results: written beside and renamed, so that a reader meets the old one or the new one, never half of one."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medae.errors import DataError


@contextmanager
def written_beside(path: Path) -> Iterator[Path]:
    """A path of the same name to write to, in a folder beside; it takes the place of ``path`` if nothing is raised.

    Raises DataError where the disk refuses.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".new-", dir=path.parent) as beside:
            new = Path(beside) / path.name
            yield new
            new.replace(path)
    except OSError as error:
        raise DataError(
            f"The result cannot be written: {error.strerror or error}.",
            where=path.name,
            remedy="Free space or choose another folder.",
        ) from error
