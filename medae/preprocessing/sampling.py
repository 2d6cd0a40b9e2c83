"""Patches for training: which case, which place, and the batch made of them.

Every sample is a function of (seed, step, place in the global batch) alone. The number of loading workers, the number
of training processes and a resumed run therefore do not change what a step sees.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from scipy import ndimage
from torch.utils.data import DataLoader, Dataset

from medae.config import Config
from medae.errors import ConfigError, DataError, MedaeError, TrainingError
from medae.plan import SpacePlan
from medae.preprocessing.batch import Batch
from medae.preprocessing.entry import Entry
from medae.preprocessing.mapped import piece
from medae.preprocessing.store import Store
from medae.seeding import numpy_generator


class SamplerConfig(Config):
    """How patches are drawn.

    patch: voxels of the plan's spacing along the spatial dimensions. batch: samples a step, over all processes.
    foreground: share of patches centred on a labelled voxel, each label of the case being equally likely; without a
    target, or in a case without labels, it has no effect. within: the other patches are centred on a voxel of the
    foreground mask, or lie anywhere in the image. slice_foreground: in 2D, slices with a smaller share of foreground
    are left out.
    """

    patch: tuple[int, ...] = Field(min_length=2, max_length=3)
    batch: int = Field(default=4, ge=1)
    foreground: float = Field(default=0.5, ge=0, le=1)
    within: Literal["mask", "image"] = "mask"
    slice_foreground: float = Field(default=0.02, ge=0, le=1)


class PatchSampler:
    """Batches of patches (3D) or slices (2D, across the plan's slice axis) from a store.

    Cases come in shuffled passes, so that each is seen equally often however many voxels or slices it has. In 2D a
    labelled patch takes the slice of a voxel of the label, so slices count by their labelled area; otherwise the
    slices of a case are equally likely. An image smaller than the patch lies in its middle, with zeros around it and
    the mask false there. Where the plan has several slices at a time, the image has the neighbours of the slice as further
    channels, with zeros beyond the ends.

    target: label map that batches carry (int64) and patches are centred on; every case needs it. exclude_target: label
    map without which a slice, and what is seen with it, has to be (lesion-free slices); 2D only, every case needs it, and
    ``foreground`` has no effect on slices that it leaves out.
    margin: voxels along the spatial dimensions that are read beyond the patch on each side, for augmentation to move in;
    the batch is so much larger, and its patches are those that are drawn without.
    beside: further cases, such as deformed ones, from which ``share`` of the samples are drawn, evenly over the samples; the
    others are drawn as if there were fewer of them.
    case_ids: the cases that are drawn from. left_out: those without an eligible slice.
    """

    def __init__(
        self,
        store: Store,
        case_ids: Sequence[str],
        space: SpacePlan,
        config: SamplerConfig,
        seed: int,
        *,
        target: str | None = None,
        exclude_target: str | None = None,
        margin: Sequence[int] | None = None,
        beside: Sequence[str] = (),
        share: float = 0.0,
    ) -> None:
        """Raises ConfigError for settings that contradict each other, DataError if nothing can be drawn."""
        if len(config.patch) != space.spatial_dims:
            raise ConfigError(
                f"A patch of {len(config.patch)} entries does not fit {space.spatial_dims} spatial dimensions.",
                where="sampling.patch",
                remedy="Give one entry a spatial dimension of the plan.",
            )
        if exclude_target is not None and space.slice_axis is None:
            raise ConfigError(
                f"Slices without '{exclude_target}' were asked for, but the plan is not made of slices.",
                where="exclude_target",
                remedy="Use a plan with spatial_dims 2, or leave exclude_target out.",
            )
        self.store = store
        self.config = config
        self.seed = seed
        self.target = target
        self._axis = space.slice_axis
        self._seen = space.slices
        self._size = self._spatial(config.patch, 1)
        self._margin = self._spatial(margin or (0,) * len(config.patch), 0)
        self._slices = {case_id: self._eligible(case_id, exclude_target) for case_id in (*case_ids, *beside)}
        self.case_ids = tuple(case_id for case_id in case_ids if len(self._slices[case_id]))
        self.left_out = tuple(case_id for case_id in case_ids if not len(self._slices[case_id]))
        self._beside = tuple(case_id for case_id in beside if len(self._slices[case_id]))
        self._share = share if self._beside else 0.0
        if not self.case_ids:
            raise DataError(
                f"None of {len(case_ids)} cases has a slice to draw from."
                if case_ids
                else "There are no cases to draw from.",
                remedy="Check the split, and in 2D slice_foreground and the target whose slices are excluded.",
            )

    @property
    def batch_size(self) -> int:
        """Samples a step, over all processes."""
        return self.config.batch

    def batch(self, step: int, process: int = 0, processes: int = 1) -> Batch:
        """The share of one process of a step's global batch, on the CPU: consecutive places, in the order of processes.

        Raises ConfigError if the batch cannot be shared evenly.
        """
        share, rest = divmod(self.config.batch, processes)
        if rest:
            raise ConfigError(
                f"A batch of {self.config.batch} cannot be shared evenly by {processes} processes.",
                where="sampling.batch",
                remedy=f"Use a multiple of {processes}.",
            )
        return _stack([self._sample(step, place) for place in range(process * share, (process + 1) * share)])

    def batches(self, start: int, stop: int, process: int = 0, processes: int = 1, workers: int = 0) -> Iterator[Batch]:
        """The batches of the steps from start to before stop, read ahead by ``workers`` processes if there are any.

        Raises the same errors as `batch`, and TrainingError if a worker dies.
        """
        if workers == 0:
            for step in range(start, stop):
                yield self.batch(step, process, processes)
            return
        # a generator of its own, because a loader without one draws from torch's global generator
        loader = DataLoader(
            _Steps(self, process, processes),
            batch_size=None,
            sampler=range(start, stop),
            num_workers=workers,
            generator=torch.Generator(),
        )
        batches = iter(loader)
        for step in range(start, stop):
            try:
                loaded = next(batches)
            except RuntimeError as error:
                if "DataLoader worker (pid" not in str(error):
                    raise
                raise TrainingError(
                    f"A process that loads patches died at step {step}: {str(error).splitlines()[0]}",
                    remedy="Most often memory ran out: use fewer workers (0 loads in the main process) or smaller patches.",
                ) from error
            if isinstance(loaded, MedaeError):
                raise loaded
            yield loaded

    def _spatial(self, values: Sequence[int], across: int) -> np.ndarray:
        """Values along I, J, K of those along the spatial dimensions; in 2D with ``across`` along the slice axis."""
        return np.asarray(values if self._axis is None else np.insert(values, self._axis, across), dtype=int)

    def _eligible(self, case_id: str, exclude_target: str | None) -> np.ndarray:
        """The slices to draw from; in 3D a single one stands for the whole case."""
        entry = self.store[case_id]
        for name in {self.target, exclude_target} - {None}:
            if name not in entry.targets:
                raise DataError(
                    f"The case has no target '{name}'.", where=case_id, remedy="Leave the case out or name another target."
                )
        if self._axis is None:
            return np.zeros(1, dtype=int)
        others = tuple(axis for axis in range(4) if axis != 1 + self._axis)
        keep = entry.mask.mean(axis=others) >= max(self.config.slice_foreground, 1e-12)
        if exclude_target is not None:
            marked = (entry.targets[exclude_target] != 0).any(axis=others)
            keep &= ~ndimage.binary_dilation(marked, np.ones(self._seen, dtype=bool))
        return np.flatnonzero(keep)

    def _sample(self, step: int, place: int) -> Batch:
        case_id = self._case(step * self.config.batch + place)
        entry = self.store[case_id]
        start = self._start(entry, numpy_generator(self.seed, "patch", step, place))
        target = {} if self.target is None else {self.target: self._cut(entry.targets[self.target], start, np.int64)}
        return Batch(
            image=self._cut(entry.image, start, np.float32, self._seen),
            present=torch.from_numpy(entry.present)[None],
            mask=self._cut(entry.mask, start, np.bool_),
            target=target,
            keys=(case_id,),
            slices=self._seen,
        )

    def _case(self, number: int) -> str:
        """The case of a sample, by its number in the whole training."""
        before, after = int(number * self._share), int((number + 1) * self._share)
        cases, turn, purpose = (
            (self._beside, before, "beside") if after > before else (self.case_ids, number - before, "cases")
        )
        lap, turn = divmod(turn, len(cases))
        order = numpy_generator(self.seed, purpose, lap).permutation(len(cases))
        return cases[order[turn]]

    def _start(self, entry: Entry, generator: np.random.Generator) -> np.ndarray:
        """The first voxel of the patch along I, J, K; negative where the image is smaller than the patch."""
        labelled = self.target is not None and generator.random() < self.config.foreground
        voxels = self._labelled(entry, generator) if labelled else np.empty((0, 3))
        free = np.asarray(entry.shape) - self._size
        anywhere = generator.integers(0, np.maximum(free, 0) + 1)
        if not len(voxels) and self._axis is not None:
            anywhere[self._axis] = generator.choice(self._slices[entry.case_id])
        if not len(voxels) and self.config.within == "mask":
            voxels = self._inside(entry, anywhere)
        start = anywhere
        if len(voxels):
            start = np.clip(voxels[generator.integers(len(voxels))].astype(int) - self._size // 2, 0, np.maximum(free, 0))
        return np.where(free < 0, -(-free // 2), start)

    def _labelled(self, entry: Entry, generator: np.random.Generator) -> np.ndarray:
        """Places ``[n, 3]`` of a random label of the target, in slices that may be drawn; none if there is no label."""
        labels = list(entry.foreground[self.target].values()) if self.target is not None else []
        if self._axis is not None:
            labels = [voxels[np.isin(voxels[:, self._axis], self._slices[entry.case_id])] for voxels in labels]
        labels = [voxels for voxels in labels if len(voxels)]
        return labels[generator.integers(len(labels))] if labels else np.empty((0, 3))

    def _inside(self, entry: Entry, start: np.ndarray) -> np.ndarray:
        """Places ``[n, 3]`` inside the mask, in 2D of the slice that was chosen."""
        if self._axis is None:
            return entry.mask_voxels
        number = int(start[self._axis])
        place = [slice(None)] * 3
        place[self._axis] = slice(number, number + 1)
        plane = np.argwhere(piece(entry.mask, (place[0], place[1], place[2]))[0])
        plane[:, self._axis] = number
        return plane

    def _cut(self, array_CIJK: np.ndarray, start: np.ndarray, dtype: type[np.generic], slices: int = 1) -> torch.Tensor:
        """``[1, slices x C, *S]``: the patch and its margin, read from the mapped file, with zeros beyond the image."""
        beside = self._spatial((0,) * len(self.config.patch), slices // 2)
        shape, size = np.asarray(array_CIJK.shape[1:]), self._size + 2 * (self._margin + beside)
        start = start - self._margin - beside
        low, high = np.maximum(start, 0), np.minimum(start + size, shape)
        i, j, k = (slice(a, b) for a, b in zip(low, high, strict=True))
        inner = tuple(slice(a, b) for a, b in zip(low - start, high - start, strict=True))
        patch = np.zeros((array_CIJK.shape[0], *size), dtype=dtype)
        patch[(slice(None), *inner)] = piece(array_CIJK, (i, j, k))
        if self._axis is None:
            return torch.from_numpy(patch)[None]
        return torch.from_numpy(np.moveaxis(patch, 1 + self._axis, 0).reshape(-1, *np.delete(size, self._axis)))[None]


class _Steps(Dataset[Batch | MedaeError]):
    """A sampler by step, for the loader. A user's error is handed over whole, without the worker's traceback."""

    def __init__(self, sampler: PatchSampler, process: int, processes: int) -> None:
        self.sampler = sampler
        self.process = process
        self.processes = processes

    def __getitem__(self, step: int) -> Batch | MedaeError:
        try:
            return self.sampler.batch(step, self.process, self.processes)
        except MedaeError as error:
            return error


def _stack(samples: Sequence[Batch]) -> Batch:
    return Batch(
        image=torch.cat([sample.image for sample in samples]),
        present=torch.cat([sample.present for sample in samples]),
        mask=torch.cat([sample.mask for sample in samples]),
        target={name: torch.cat([sample.target[name] for sample in samples]) for name in samples[0].target},
        keys=tuple(key for sample in samples for key in sample.keys),
        slices=samples[0].slices,
    )
