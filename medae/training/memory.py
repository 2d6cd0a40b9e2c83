"""How much memory a training step takes, found by running it with tensors that have a shape but no values.

Nothing is computed and nothing of that size is allocated: the real network, objective and mixed precision run on fake
tensors, whose storages are counted from when they are made to when they are let go. So everything counts that lives in
tensors, and nothing is a formula that a change of the network could make wrong. Operations are seen from outside: of what
they make within themselves, only the copies of a convolution are counted, which can be as large as all the rest. What is
not in tensors is not seen: other work space of libraries, the context of a GPU, what an allocator cannot reuse.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from medae.models.networks import NetworkConfig, build_network
from medae.objectives.registry import ObjectiveConfig, build_objective
from medae.preprocessing.batch import Batch
from medae.seeding import Draw
from medae.training.config import FitConfig
from medae.training.learner import LAYOUTS, set_layout
from medae.training.precision import DTYPES, MixedPrecision

MOMENTS = {"adamw": 2, "sgd": 1}
"""Copies of the weights that an optimiser keeps."""

CONVOLUTIONS = {torch.ops.aten.convolution.default: 2, torch.ops.aten.convolution_backward.default: 3}
"""Operations, and how many tensors each starts with: the gradient in the backward pass, the input, the weights."""

BLOCK = 16
"""Channels of a block in oneDNN's own layout with AVX-512, half as many without."""

SMALL = 4096
"""Elements up to which a tensor that depends on no fake one has values."""


@dataclass(frozen=True)
class StepMemory:
    """Bytes of one training step.

    weights: parameters and buffers. states: the optimiser's moments, and the moving average's copy. working: the most
    that the batch, activations, gradients and temporary tensors take together, between two steps none.
    """

    weights: int
    states: int
    working: int

    @property
    def total(self) -> int:
        """The peak."""
        return self.weights + self.states + self.working


def step_memory(
    network: NetworkConfig, objective: ObjectiveConfig, patch: Sequence[int], samples: int, fit: FitConfig
) -> StepMemory:
    """The memory of a training step on ``samples`` patches of so many voxels.

    fit: its precision (``auto`` counts as fp32, the most that it can come to), optimiser, moving average and layout count.
    Random numbers are drawn as in a training, by generators of their own; the global one is left as it was.
    Raises ValueError if the patch does not fit the network.
    """
    fakes = FakeTensorMode(allow_non_fake_inputs=True)
    with fakes, torch.random.fork_rng(devices=[]):
        model = build_network(network)
    if fit.channels_last:
        set_layout(model, channels_last=True)
    learner = MixedPrecision(model.train(), DTYPES.get(fit.precision, torch.float32), torch.device("cpu"))
    goal = build_objective(objective, network).train()
    layout = LAYOUTS[len(patch) + 2] if fit.channels_last else torch.contiguous_format

    def step() -> list[Tensor]:
        with fakes:
            made = _batch(network, objective, tuple(patch), samples)
        made = replace(made, image=made.image.contiguous(memory_format=layout))
        for loss in goal(learner, made, Draw(fit.seed, 0)):
            loss.total.backward()
        return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]

    with torch.random.fork_rng(devices=[]):
        working = peak_bytes(step, fakes)
    weights = sum(map(_bytes, model.state_dict().values()))
    trained = sum(_bytes(parameter) for parameter in model.parameters() if parameter.requires_grad)
    states = trained * MOMENTS[fit.optimiser] + (weights if fit.ema is not None else 0)
    return StepMemory(weights, states, max(working, 2 * trained))  # gradients and the update, where patches are small


def peak_bytes(step: Callable[[], Any], fakes: FakeTensorMode | None = None) -> int:
    """The most bytes that tensors made within ``step`` take at one time; views share theirs, its result is still held.

    fakes: the mode in which what is large is made without values, even from nothing or from small real tensors.
    """
    with _Ledger(fakes) as ledger:
        result = step()
    del result
    return ledger.peak


class _Ledger(TorchDispatchMode):
    """Counts every storage that an operation makes until it is let go."""

    def __init__(self, fakes: FakeTensorMode | None) -> None:
        super().__init__()
        self.fakes = fakes
        self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = _tensors((args, kwargs))
        before = {id(tensor.untyped_storage()) for tensor in given}
        result = self._run(operation, given, args, kwargs or {})
        for tensor in _tensors(result):
            if id(tensor.untyped_storage()) not in before:
                self._count(tensor.untyped_storage())
        self.peak = max(self.peak, self.live + _relaid(operation, args, result))
        return result

    def _run(self, operation: Any, given: list[Tensor], args: Any, kwargs: Any) -> Any:
        """The operation; on fakes if its result is large. Small real ones are kept real: a program may look at them."""
        if self.fakes is not None and not any(isinstance(tensor, FakeTensor) for tensor in given):
            try:
                with self.fakes:
                    result = operation(*args, **kwargs)
            except (DataDependentOutputException, DynamicOutputShapeException):
                return operation(*args, **kwargs)
            if any(tensor.numel() > SMALL for tensor in _tensors(result)):
                return result
        return operation(*args, **kwargs)

    def _count(self, storage: torch.UntypedStorage) -> None:
        if id(storage) in self._known:
            return
        self._known.add(id(storage))
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._let_go, id(storage), storage.nbytes())

    def _let_go(self, known: int, size: int) -> None:
        self._known.discard(known)
        self.live -= size


def _relaid(operation: Any, args: Any, result: Any) -> int:
    """Bytes of the copies that a convolution makes within itself, of what does not lie as it wants it.

    If the input or the weights lie channels last, the others are brought to it; after an instance norm, which wants
    channels first, the input and the gradient are. If none does, oneDNN takes images in blocks of channels (CPU; what other
    libraries do instead is not known).
    """
    if operation not in CONVOLUTIONS:
        return 0
    operands = args[: CONVOLUTIONS[operation]]
    *_, image, weight = operands
    last = LAYOUTS.get(image.ndim, torch.contiguous_format)
    if any(x.is_contiguous(memory_format=last) and not x.is_contiguous() for x in (image, weight)):
        return sum(x.numel() * x.element_size() for x in operands if not x.is_contiguous(memory_format=last))
    made = result if isinstance(result, Tensor) else result[0]  # no gradient of the input, where none is wanted
    return sum(_blocked_bytes(x) for x in (*operands[:-1], made) if x is not None)


def _blocked_bytes(image: Tensor) -> int:
    channels = BLOCK * math.ceil(image.shape[1] / BLOCK)
    return image[:, :1].numel() * channels * image.element_size()


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def _bytes(tensor: Tensor) -> int:
    return tensor.untyped_storage().nbytes()


def _batch(network: NetworkConfig, objective: ObjectiveConfig, patch: tuple[int, ...], samples: int) -> Batch:
    """A batch as a sampler makes it."""
    channels = network.encoder.in_channels
    target = (
        {objective.target: torch.empty(samples, 1, *patch, dtype=torch.int64)} if objective.kind == "segmentation" else {}
    )
    present, mask = (
        torch.empty(samples, network.encoder.channels, dtype=torch.bool),
        torch.empty(samples, 1, *patch, dtype=torch.bool),
    )
    return Batch(torch.empty(samples, channels, *patch), present, mask, target, slices=network.encoder.slices)
