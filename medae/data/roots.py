"""The folder of a data set: where it lies, and how to get it if it is not there."""

from __future__ import annotations

import os
from pathlib import Path

from medae.data.catalogue import KNOWN
from medae.errors import DataError

DATA_VARIABLE = "MEDAE_DATA"
PUBLIC_SETS = {
    "ixi_t1": "the IXI data set (T1), https://brain-development.org/ixi-dataset",
    "lgg": "TCGA-LGG, https://www.cancerimagingarchive.net, with the masks of Buda et al. 2019",
    "lidc": "LIDC-IDRI, https://www.cancerimagingarchive.net",
}


def absolute_root(root: Path) -> Path:
    """``root`` with ``~`` expanded, and beneath the folder in MEDAE_DATA (else the working folder) if it is relative."""
    return (Path(os.environ.get(DATA_VARIABLE, "")).expanduser() / root.expanduser()).absolute()


def resolve_root(root: Path) -> Path:
    """The absolute folder of a data set. Raises DataError, which says how to get the data, if it is not there."""
    folder = absolute_root(root)
    if folder.is_dir():
        return folder
    origin = PUBLIC_SETS.get(root.name)
    remedy = "Correct the path."
    if not root.expanduser().is_absolute():
        remedy = f"Set {DATA_VARIABLE} to the folder that holds '{root}', or give the data set's absolute path."
    if root.name in KNOWN:
        remedy += f" 'medae data get {root.name}' fetches the public data set of this name ({KNOWN[root.name].home})."
    elif origin:
        remedy += f" The public data set of this name comes from {origin}."
    problem = "is a file, not a folder" if folder.exists() else "does not exist"
    raise DataError(f"The data folder {problem}.", where=folder, remedy=remedy)
