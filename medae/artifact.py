"""The artifact: a folder that holds a trained model and all that is needed to use it.

``weights.safetensors``, ``medae.json`` (network, plan, labels, calibration, provenance, metrics, and checksums) and
``README.md``, a model card; of a detector ``statistics.safetensors`` too, what its anomaly map has learnt from normal scans.
Nothing in it is pickled, and no absolute path is in it.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from medae import config
from medae.config import Config, validate
from medae.errors import ArtifactError, ConfigError
from medae.modelcard import model_card
from medae.models.networks import Network, StoredConfig, build_network
from medae.plan import Plan
from medae.preprocessing.domain import Domain
from medae.tracking.privacy import public

WEIGHTS = "weights.safetensors"
STATISTICS = "statistics.safetensors"
RECORD = "medae.json"
CARD = "README.md"
FILES = {WEIGHTS, STATISTICS, RECORD, CARD}
FORMAT = 2
"""2: a decoder's finest features are not rectified."""

ArtifactKind = Literal["autoencoder", "segmenter", "detector"]


class ArtifactMeta(Config):
    """What a model is. target: the label map that a segmenter was trained on; labels: its names by value.

    calibration: of a detector, threshold and what it was calibrated on. provenance: data, run, code and versions;
    a ``format: phantom`` or ``phantom: true`` anywhere in it puts a notice on the model card. seen: the first 16 digits of
    the SHA-256 of every image that the model was made with, an encoder's included. calibrated: of these, the images that
    nothing but a detector's threshold was set with. domain: what the training scans were like; None in models that were
    stored before it was recorded. metrics: by name.
    """

    kind: ArtifactKind
    network: StoredConfig
    plan: Plan
    target: str | None = None
    labels: dict[int, str] = Field(default_factory=dict)
    calibration: dict[str, Any] | None = None
    provenance: dict[str, Any] = Field(default_factory=dict)
    seen: tuple[str, ...] = ()
    calibrated: tuple[str, ...] = ()
    domain: Domain | None = None
    metrics: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _fits(self) -> ArtifactMeta:
        encoder, space = self.network.encoder, self.plan.space
        if encoder.spatial_dims != space.spatial_dims:
            raise ValueError(f"a network of {encoder.spatial_dims} dimensions has a plan of {space.spatial_dims}")
        if encoder.in_channels != len(space.inputs):
            raise ValueError(f"a network of {encoder.in_channels} input channels has a plan of {len(space.inputs)}")
        if self.kind == "segmenter" and (self.target is None or not self.labels):
            raise ValueError("a segmenter needs its target and labels")
        if not set(self.calibrated) <= set(self.seen):
            raise ValueError("calibrated: what a threshold was set with is among what was seen")
        return self

    @property
    def learnt(self) -> tuple[str, ...]:
        """Digests of the images that weights, or what maps know of normal scans, were learnt from."""
        return tuple(sorted(set(self.seen) - set(self.calibrated)))


class _File(Config):
    sha256: str
    bytes: int

    @classmethod
    def of(cls, path: Path) -> _File:
        return cls(sha256=_sha256(path), bytes=path.stat().st_size)

    def check(self, path: Path, what: str) -> None:
        """Raises ArtifactError unless the file is the one that was stored."""
        if not path.is_file():
            raise _damaged(f"The {what} are missing.", path)
        if (size := path.stat().st_size) != self.bytes:
            raise _damaged(f"The {what} are damaged: {size} bytes instead of {self.bytes}.", path)
        if _sha256(path) != self.sha256:
            raise _damaged(f"The {what} are not those that were stored: their checksum differs.", path)


class _Record(Config):
    format: int
    weights: _File
    statistics: _File | None = None
    meta: ArtifactMeta

    def as_dict(self) -> dict[str, Any]:
        """As it is stored; what is not there is not named, so that the digest of a model does not change."""
        content = self.model_dump(mode="json", exclude=None if self.statistics else {"statistics"})
        for name in ("domain", "calibrated"):
            if not content["meta"][name]:
                del content["meta"][name]
        return content


@dataclass(frozen=True)
class Artifact:
    """A stored model. digest: SHA-256 over its record, which has the checksum of the weights."""

    folder: Path
    meta: ArtifactMeta
    digest: str

    def tensors(self) -> dict[str, Tensor]:
        """The weights by name, on the CPU. Raises ArtifactError if the file cannot be read."""
        return _tensors(self.folder / WEIGHTS, "weights")

    def statistics(self) -> dict[str, Tensor]:
        """What a detector's map has learnt from normal scans, by name; empty if nothing. Raises ArtifactError."""
        path = self.folder / STATISTICS
        return _tensors(path, "statistics") if path.is_file() else {}

    def model(self) -> Network:
        """The network with its weights, on the CPU, in evaluation mode. torch's random state is left as it was."""
        with torch.random.fork_rng(devices=[]):
            network = build_network(self.meta.network)
        tensors = self.tensors()
        wrong = _misfits(network, tensors)
        if wrong:
            raise _damaged(f"The weights do not fit the network of the record: {wrong}", self.folder)
        network.load_state_dict(tensors, strict=True)
        return network.eval()


def save_artifact(
    folder: Path, model: nn.Module, meta: ArtifactMeta, statistics: Mapping[str, Tensor] | None = None
) -> Artifact:
    """Store a model: written beside ``folder``, synced, renamed. An artifact that was there is replaced.

    statistics: tensors by name that a detector needs beside its weights.
    Raises ArtifactError if the weights are not those of ``meta.network``, or ``folder`` holds something else.
    """
    tensors = _storable(model.state_dict())
    with torch.device("meta"):
        wrong = _misfits(build_network(meta.network), tensors)
    if wrong:
        raise ArtifactError(f"The model is not the one that its description builds: {wrong}", where=folder)
    if folder.exists() and not (folder.is_dir() and {item.name for item in folder.iterdir()} <= FILES):
        raise ArtifactError("The folder holds something else than a model.", where=folder, remedy="Choose another folder.")
    meta = meta.model_copy(
        update={key: _finite(public(getattr(meta, key))) for key in ("calibration", "provenance", "metrics")}
    )
    beside = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
    try:
        beside.mkdir(parents=True)
        save_file(tensors, beside / WEIGHTS, metadata={"format": "pt"})
        if statistics:
            save_file(_storable(statistics), beside / STATISTICS, metadata={"format": "pt"})
        record = _Record(
            format=FORMAT,
            weights=_File.of(beside / WEIGHTS),
            statistics=_File.of(beside / STATISTICS) if statistics else None,
            meta=meta,
        ).as_dict()
        (beside / RECORD).write_text(json.dumps(record, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        words = None if meta.domain is None else meta.domain.in_words()
        card = model_card(record["meta"], sum(t.numel() for t in model.parameters()), words)
        (beside / CARD).write_text(card, encoding="utf-8")
        for file in beside.iterdir():
            _sync(file)
        _put_in_place(beside, folder)
    except OSError as error:
        raise ArtifactError(
            f"The model cannot be stored: {error.strerror or error}.",
            where=folder,
            remedy="Make room, or choose another folder.",
        ) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return Artifact(folder, meta, config.digest(record))


def load_artifact(folder: Path, kind: ArtifactKind | None = None) -> Artifact:
    """Open a stored model and check that it is whole. kind: what it has to be, None for anything.

    Raises ArtifactError if files are missing, damaged, of a newer format, or the model is of another kind.
    """
    missing = [name for name in (RECORD, WEIGHTS) if not (folder / name).is_file()]
    if missing:
        what = f"The model has no {' and no '.join(missing)}." if folder.is_dir() else "There is no such model folder."
        raise ArtifactError(what, where=folder, remedy="Give the folder that a medae training wrote.")
    content = _read_record(folder / RECORD)
    try:
        record = validate(_Record, content)
    except ConfigError as error:
        raise _damaged(f"{RECORD} is not valid. {error.what}", folder) from error
    record.weights.check(folder / WEIGHTS, "weights")
    if record.statistics is not None:
        record.statistics.check(folder / STATISTICS, "statistics")
    elif (folder / STATISTICS).exists():
        raise _damaged("The statistics are not those that were stored: the record has none.", folder / STATISTICS)
    if kind is not None and record.meta.kind != kind:
        raise ArtifactError(
            f"This model is of the kind {record.meta.kind}; a model of the kind {kind} is needed.",
            where=folder,
            remedy="Choose another model.",
        )
    return Artifact(folder, record.meta, config.digest(record.as_dict()))


def _storable(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}


def _tensors(path: Path, what: str) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise _damaged(f"The {what} cannot be read: {error}", path) from error


def _damaged(what: str, where: Path) -> ArtifactError:
    return ArtifactError(what, where=where, remedy="Fetch or train the model again.")


def _read_record(path: Path) -> Any:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise _damaged(f"{RECORD} cannot be read: {error}", path) from error
    number = content.get("format") if isinstance(content, dict) else None
    if not isinstance(number, int):
        raise _damaged(f"{RECORD} is not the record of a model.", path)
    if number != FORMAT:
        raise ArtifactError(
            f"The model has format {number}; this medae reads format {FORMAT}.",
            where=path,
            remedy="Use the medae it was made with.",
        )
    return content


def _misfits(network: nn.Module, tensors: Mapping[str, Tensor]) -> str:
    """In words, how tensors differ from a network's in name or shape; empty if they do not."""
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    rows = [f"{name} is missing" for name in expected if name not in found]
    rows += [f"{name} is not part of it" for name in found if name not in expected]
    rows += [
        f"{name} is {list(found[name])} instead of {list(shape)}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    return "; ".join(rows[:5]) + (f"; and {len(rows) - 5} more" if len(rows) > 5 else "")


def _finite(value: Any) -> Any:
    """``value`` with null for every number that is none (not counted, undefined), which JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sync(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def _put_in_place(new: Path, folder: Path) -> None:
    """Rename ``new`` to ``folder``; what is there moves aside first and comes back if that fails."""
    if not folder.exists():
        new.rename(folder)
        return
    aside = new.with_name(f"{new.name}.old")
    folder.rename(aside)
    try:
        new.rename(folder)
    except OSError:
        aside.rename(folder)
        raise
    shutil.rmtree(aside, ignore_errors=True)
