"""Checkpoints: a folder a step, which is there as a whole or not at all.

``<folder>/checkpoints/step-00000150/`` holds ``state.safetensors`` (model, EMA, optimisers, objective),
``state.json`` (everything that is no tensor) and ``best.safetensors`` (the best weights so far, once there are
some). It is written under another name, synced to the disk and renamed, then its predecessor is removed: killed at
any moment, the highest step that is there is whole, and its three files belong together.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from medae.errors import TrainingError

FORMAT = 1
STATE, FACTS, BEST = "state.safetensors", "state.json", "best.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """What a training goes on from. tensors: by name, on the CPU. facts: JSON. path: its folder."""

    step: int
    tensors: dict[str, Tensor]
    facts: dict[str, Any]
    path: Path


def latest(folder: Path) -> Path | None:
    """The folder of the last whole checkpoint of a training, None if there is none."""
    return max((folder / "checkpoints").glob("step-*"), default=None)


def save(
    folder: Path,
    step: int,
    tensors: Mapping[str, Tensor],
    facts: Mapping[str, Any],
    best: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write the checkpoint of a step and remove its predecessor. Returns its folder.

    best: the new best weights; None keeps those of the predecessor (linked, or copied where links are unknown).
    Raises OSError or SafetensorError if the disk is full or gone; the predecessor is then untouched.
    """
    root = folder / "checkpoints"
    root.mkdir(parents=True, exist_ok=True)
    _clear_leftovers(root)
    previous = latest(folder)
    target, draft = root / f"step-{step:08d}", root / f".draft-{step:08d}"
    try:
        draft.mkdir()
        _write_tensors(draft / STATE, tensors)
        if best is not None:
            _write_tensors(draft / BEST, best)
        elif previous is not None and (previous / BEST).exists():
            _link(previous / BEST, draft / BEST)
        with (draft / FACTS).open("w", encoding="utf-8") as file:
            json.dump({"format": FORMAT, "step": step, **facts}, file, indent=1)
        _sync(draft / FACTS)
        _sync_folder(draft)
        draft.rename(target)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)  # also gives a full disk its space back
        raise
    _sync_folder(root)
    for path in root.glob("step-*"):  # after a kill there may be one more than the predecessor
        if path != target:
            _remove(path)
    return target


def load(folder: Path) -> Checkpoint | None:
    """The last checkpoint, or None if there is none.

    Safe beside a training that writes: a checkpoint that is replaced while it is read is left for its successor.
    Raises TrainingError if the checkpoint is damaged.
    """
    while (path := latest(folder)) is not None:
        try:
            facts = json.loads((path / FACTS).read_text(encoding="utf-8"))
            if facts["format"] != FORMAT:
                raise ValueError(f"its format is {facts['format']}, this version of medae reads {FORMAT}")
            return Checkpoint(facts["step"], load_file(path / STATE), facts, path)
        except FileNotFoundError as error:
            if latest(folder) == path:
                raise _damaged(path, error) from error
        except (SafetensorError, ValueError, KeyError) as error:
            raise _damaged(path, error) from error
    return None


def load_best(folder: Path) -> dict[str, Tensor]:
    """The best weights so far, as a network's state. Raises TrainingError if they are missing or damaged."""
    path = latest(folder)
    if path is None:
        raise TrainingError("There is no checkpoint.", where=folder, remedy="Train first.")
    try:
        return load_file(path / BEST)
    except (FileNotFoundError, SafetensorError) as error:
        raise _damaged(path, error) from error


def stored_run_id(folder: Path) -> str | None:
    """The tracker run that the last checkpoint belongs to: what a tracker has to reopen before a resumed ``fit``."""
    path = latest(folder)
    if path is None:
        return None
    try:
        return json.loads((path / FACTS).read_text(encoding="utf-8"))["run_id"] or None
    except (OSError, ValueError, KeyError) as error:
        raise _damaged(path, error) from error


def discard(folder: Path) -> None:
    """Remove the checkpoints of a training, so that it can start anew in its folder."""
    root = folder / "checkpoints"
    for path in sorted(root.glob("step-*")):
        _remove(path)
    if root.exists():
        _clear_leftovers(root)
        root.rmdir()


def _damaged(path: Path, error: Exception) -> TrainingError:
    return TrainingError(
        f"The checkpoint cannot be used: {error}", where=path, remedy="Remove its folder and train again without resuming."
    )


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors of any device and layout; what shares its memory (tied weights) is written once a name."""
    seen: set[int] = set()
    plain: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        value = tensor.detach().to("cpu").contiguous()
        address = value.untyped_storage().data_ptr()
        plain[name] = value.clone() if address in seen else value
        seen.add(address)
    save_file(plain, path)
    _sync(path)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)
        _sync(target)


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    """Make names durable. Windows cannot open a folder, and has no need to."""
    if os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    """Rename, then remove: half a folder never has a checkpoint's name."""
    away = path.with_name(f".removed-{path.name}")
    path.rename(away)
    shutil.rmtree(away, ignore_errors=True)


def _clear_leftovers(root: Path) -> None:
    """What a killed process left behind half written or half removed."""
    for path in [*root.glob(".draft-*"), *root.glob(".removed-*")]:
        shutil.rmtree(path, ignore_errors=True)
