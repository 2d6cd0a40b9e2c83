"""One prepared case on disk: a folder of ``.npy`` arrays and an ``entry.json`` with their checksums.

An entry is written into a folder of its own, which the store then renames, so a reader meets a whole entry or none.
The arrays of a plan of slices lie on disk slice by slice, so that a slice is one stretch of the file.
Nothing is synced: what a power failure leaves behind does not match its checksums and is prepared again.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from medae.config import to_dict
from medae.errors import DataError
from medae.preprocessing.prepare import Prepared
from medae.seeding import numpy_generator
from medae.volume import NativeGrid, spacing_of

VOXELS = 10_000
"""At most so many voxel coordinates are kept for the mask and for each label of a target."""


@dataclass(frozen=True)
class Entry:
    """A prepared case whose arrays are mapped from disk, read-only.

    image: float32 ``[C, I, J, K]``. present: bool ``[C]``. mask: bool ``[1, I, J, K]``. targets: int16
    ``[1, I, J, K]`` by name. mask_voxels: int16 ``[n, 3]``, places (I, J, K) inside the mask, all or a fixed random
    sample of 10,000. foreground: the same by target and by label, for the labels above 0 that occur. native, affine,
    doubtful, beyond, shape, spacing: as in `Prepared`. Every array holds an open file: keep entries no longer than needed.
    """

    case_id: str
    subject: str
    image: np.ndarray
    present: np.ndarray
    mask: np.ndarray
    targets: dict[str, np.ndarray]
    mask_voxels: np.ndarray
    foreground: dict[str, dict[int, np.ndarray]]
    native: NativeGrid
    affine: np.ndarray
    doubtful: np.ndarray | None = None
    beyond: dict[str, int] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along I, J, K."""
        i, j, k = self.mask.shape[1:]
        return i, j, k

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size in mm along I, J, K."""
        return spacing_of(self.affine)

    def prepared(self) -> Prepared:
        """The same case in memory, as tensors."""
        return Prepared(
            self.case_id,
            torch.from_numpy(np.array(self.image)),
            torch.from_numpy(np.array(self.present)),
            torch.from_numpy(np.array(self.mask)),
            {name: torch.from_numpy(np.array(values)) for name, values in self.targets.items()},
            self.native,
            self.affine,
            None if self.doubtful is None else torch.from_numpy(np.array(self.doubtful)),
            self.beyond,
        )


def write_entry(folder: Path, prepared: Prepared, contents: str, slice_axis: int | None = None) -> None:
    """Write a prepared case into an empty folder. Raises OSError.

    contents: stands for the case's images, and decides which voxels are kept of a large region. slice_axis: of the plan.
    """
    arrays = {"image": prepared.image.numpy(), "mask": prepared.mask.numpy()}
    arrays |= {f"target{place}": target.numpy() for place, target in enumerate(prepared.targets.values())}
    if prepared.doubtful is not None:
        arrays["doubtful"] = prepared.doubtful.numpy()
    sample = _Sample(contents)
    record: dict[str, Any] = {
        "present": prepared.present.tolist(),
        "native": to_dict(prepared.native),
        "affine": prepared.affine.tolist(),
        "slice_axis": slice_axis,
        "targets": list(prepared.targets),
        "beyond": prepared.beyond,
        "mask_voxels": sample.add(prepared.mask[0].numpy(), "mask"),
        "foreground": {},
    }
    for name, target in prepared.targets.items():
        values = target[0].numpy()
        labels = [int(label) for label in np.unique(values) if label > 0]
        record["foreground"][name] = {label: sample.add(values == label, name, label) for label in labels}
    if slice_axis is not None:
        arrays = {name: np.moveaxis(array, 1 + slice_axis, 1) for name, array in arrays.items()}
    arrays["voxels"] = sample.voxels()
    record["checksums"] = {name: _write_array(folder / f"{name}.npy", array) for name, array in arrays.items()}
    (folder / "entry.json").write_text(json.dumps(record), encoding="utf-8")


def open_entry(folder: Path, case_id: str, subject: str) -> Entry:
    """Map the arrays of an entry. Raises DataError if a file is missing or cut short; contents are not compared."""
    try:
        record = _record(folder)
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in record["checksums"]}
        if (axis := record["slice_axis"]) is not None:
            arrays |= {name: np.moveaxis(array, 1, 1 + axis) for name, array in arrays.items() if name != "voxels"}
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            "A prepared case is missing from the store or damaged.", where=case_id, remedy="Build the store again."
        ) from error

    def voxels(span: list[int]) -> np.ndarray:
        return arrays["voxels"][slice(*span)]

    return Entry(
        case_id,
        subject,
        arrays["image"],
        np.asarray(record["present"], dtype=bool),
        arrays["mask"],
        {name: arrays[f"target{place}"] for place, name in enumerate(record["targets"])},
        voxels(record["mask_voxels"]),
        {name: {int(label): voxels(span) for label, span in spans.items()} for name, spans in record["foreground"].items()},
        NativeGrid.model_validate(record["native"]),
        np.asarray(record["affine"], dtype=np.float64),
        arrays.get("doubtful"),
        record.get("beyond", {}),
    )


def is_intact(folder: Path) -> bool:
    """True if the entry is there and every array has the checksum it was written with."""
    try:
        checksums = _record(folder)["checksums"]
        return all(_checksum(folder / f"{name}.npy") == expected for name, expected in checksums.items())
    except (OSError, ValueError):
        return False


def _record(folder: Path) -> dict[str, Any]:
    """The entry.json. Raises OSError if it is missing, ValueError if it is not that of an entry."""
    record = json.loads((folder / "entry.json").read_text(encoding="utf-8"))
    if not isinstance(record, dict) or not isinstance(record.get("checksums"), dict):
        raise ValueError("entry.json does not describe an entry")
    return record


class _Sample:
    """Voxel places of many regions, one after the other in one array; each region is a start and a stop."""

    def __init__(self, contents: str) -> None:
        self._contents = contents
        self._regions: list[np.ndarray] = []
        self._count = 0

    def add(self, region_IJK: np.ndarray, *name: str | int) -> list[int]:
        """Keep all places of a region, or a random sample that depends on the images and the region's name only."""
        places = np.flatnonzero(region_IJK)
        if len(places) > VOXELS:
            chosen = numpy_generator(0, "voxels", self._contents, *name).choice(len(places), VOXELS, replace=False)
            places = places[np.sort(chosen)]
        self._regions.append(np.stack(np.unravel_index(places, region_IJK.shape), axis=1).astype(np.int16))
        start, self._count = self._count, self._count + len(places)
        return [start, self._count]

    def voxels(self) -> np.ndarray:
        """int16 ``[n, 3]``."""
        return np.concatenate(self._regions)


class _ChecksummedFile:
    """A file that sums up what is written. Not a real file for NumPy, whose own writing loses the reason of a failure."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.checksum = 0

    def write(self, data: bytes) -> None:
        """Write all of ``data``. Raises OSError."""
        self.checksum = zlib.crc32(data, self.checksum)
        self._file.write(data)


def _write_array(path: Path, array: np.ndarray) -> int:
    with path.open("wb") as file:
        summed = _ChecksummedFile(file)
        np.lib.format.write_array(summed, np.ascontiguousarray(array), allow_pickle=False)
    return summed.checksum


def _checksum(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            checksum = zlib.crc32(block, checksum)
    return checksum
