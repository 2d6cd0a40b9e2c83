"""A network as a graph of torch operations, which run without medae, and the proof that it computes the same.

What is exported is the network: an image in the plan's space, normalised, to its finest map. The way of a scan there and
back, sliding windows, and what a detector makes of a map are not in it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram, export

import medae
from medae.artifact import Artifact, ArtifactMeta
from medae.errors import ArtifactError
from medae.export.bundled.finest import FinestMap, has_lesion_head
from medae.models.bottleneck import DenseBottleneck

TOLERANCE = 1e-4
"""The largest difference between a file's numbers and the network's, in shares of the network's largest, or of 1."""

BATCHES = (1, 3)
"""Of the two random inputs that a file is checked with; the graph is traced with another."""

TRACED = 2


@dataclass(frozen=True)
class Axis:
    """Voxels along a spatial axis: ``size``; if it is ``free``, any multiple of it from twice on."""

    size: int
    free: bool

    def __str__(self) -> str:
        return f"multiples of {self.size} from {2 * self.size} on" if self.free else f"{self.size}"


@dataclass(frozen=True)
class Graph:
    """program: takes ``image``, float32 ``[B, channels, *axes]``. batch: of one size only; None for any.

    fixed: why sizes are fixed that the network itself leaves free; empty if they are not.
    """

    program: ExportedProgram
    channels: int
    axes: tuple[Axis, ...]
    batch: int | None = None
    fixed: str = ""

    def sizes(self) -> dict[str, Any]:
        """The sizes that it takes, in words."""
        return {"batch": "any" if self.batch is None else str(self.batch), "axes": [str(axis) for axis in self.axes]}


@dataclass(frozen=True)
class Exported:
    """What was written. difference: from the network's own numbers, see TOLERANCE."""

    graph: Graph
    difference: float


def trace(model: FinestMap, patch: Sequence[int]) -> Graph:
    """The graph of a network.

    patch: the plan's window. Axes are free in steps of the encoder's cell where the window has at least two of them, and
    fixed to it elsewhere; a dense bottleneck fixes all to its own size. Where torch cannot leave them free, all sizes are
    fixed.
    Raises ArtifactError if torch cannot make a graph of it.
    """
    encoder, window = model.network.config.encoder, _only_size(model.network.config) or tuple(patch)
    dense = _only_size(model.network.config) is not None
    free = [not dense and size % cell == 0 and size >= 2 * cell for size, cell in zip(window, encoder.cell, strict=True)]
    axes = tuple(
        Axis(cell if is_free else size, is_free) for size, cell, is_free in zip(window, encoder.cell, free, strict=True)
    )
    dims = {2 + place: _dim(place, axis.size) for place, axis in enumerate(axes) if axis.free}
    try:
        program = _program(model, torch.zeros(TRACED, encoder.in_channels, *window), {0: Dim("batch", min=1), **dims})
        return Graph(program, encoder.in_channels, axes)
    except RuntimeError as error:  # what torch raises where a program depends on a size
        reason = first_line(error)
    only = tuple(Axis(size, free=False) for size in window)
    try:
        program = _program(model, torch.zeros(1, encoder.in_channels, *window), {})
    except RuntimeError as error:
        raise ArtifactError(
            f"torch cannot make a graph of this network: {first_line(error)}",
            remedy="Use it through medae predict, or as a bundle (--to bundle).",
        ) from error
    return Graph(program, encoder.in_channels, only, batch=1, fixed=reason)


def difference(graph: Graph, model: FinestMap, compute: Callable[[Tensor], Tensor]) -> float:
    """How far numbers are from those of the network, for two random images of different sizes: see TOLERANCE.

    compute: from an image to the map. Raises ArtifactError if the difference is above the tolerance.
    """
    worst = 0.0
    for image in _images(graph):
        with torch.no_grad():
            expected, found = model(image), compute(image)
        if found.shape != expected.shape:
            raise ArtifactError(f"The file gives a map of {tuple(found.shape)}, the network one of {tuple(expected.shape)}.")
        worst = max(worst, float((found - expected).abs().max() / expected.abs().max().clamp(min=1)))
    if not worst <= TOLERANCE:
        raise ArtifactError(
            f"The file does not compute what the network computes: the numbers differ by {worst:.2g}.",
            remedy="Nothing was written. Try another form, or other versions of torch and ONNX.",
        )
    return worst


def facts(artifact: Artifact, graph: Graph) -> dict[str, str]:
    """What a file says of its model: texts by name, values that are no texts as JSON."""
    meta = artifact.meta
    rows: dict[str, Any] = {
        "medae.version": medae.__version__,
        "medae.kind": meta.kind,
        "medae.digest": artifact.digest,
        "medae.channels": meta.plan.space.inputs,
        "medae.labels": {str(value): name for value, name in meta.labels.items()},
        "medae.output": _output(meta),
        "medae.sizes": graph.sizes(),
        "medae.plan": meta.plan.choices(),
    }
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in rows.items()}


def _output(meta: ArtifactMeta) -> str:
    if meta.kind == "segmenter":
        return "logits"
    lesion = ", then the logit of a lesion" if has_lesion_head(meta.network) else ""
    return f"intensities in the units of the input{lesion}"


def _only_size(config: Any) -> tuple[int, ...] | None:
    """The one size of images that a network takes; None if it takes any."""
    config = getattr(config, "member", config)
    bottleneck = getattr(config, "bottleneck", getattr(config, "latent", None))
    return bottleneck.input_size if isinstance(bottleneck, DenseBottleneck) else None


def _dim(place: int, cell: int) -> Any:
    cells = Dim(f"n{place}", min=2)
    return cells if cell == 1 else cell * cells


def _program(model: FinestMap, image: Tensor, free: dict[int, Any]) -> ExportedProgram:
    with torch.no_grad():
        program = export(model, (image,), dynamic_shapes=(free,), strict=False)
    program.example_inputs = None  # would be stored beside the weights, pickled
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # has paths of this machine
    return program


def _images(graph: Graph) -> Iterator[Tensor]:
    draw = torch.Generator().manual_seed(0)
    for turn, batch in enumerate(BATCHES):
        cells = [2 + turn * (place % 2 == 0) for place in range(len(graph.axes))]
        size = [axis.size * count if axis.free else axis.size for axis, count in zip(graph.axes, cells, strict=True)]
        yield torch.randn(batch if graph.batch is None else graph.batch, graph.channels, *size, generator=draw)


def first_line(error: BaseException) -> str:
    """What an error says, in a line."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
