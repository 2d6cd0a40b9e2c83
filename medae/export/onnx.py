"""A network as an ONNX file, checked by ONNX Runtime."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medae.artifact import Artifact
from medae.errors import ArtifactError, ConfigError
from medae.export.beside import written_beside
from medae.export.bundled.finest import FinestMap
from medae.export.graph import Exported, Graph, difference, facts, first_line, trace

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
LARGEST = 2**31
"""Bytes of an ONNX file in one piece."""


def export_onnx(artifact: Artifact, path: Path) -> Exported:
    """Write the network, from ``image`` to ``map``, and compare what ONNX Runtime makes of it.

    The model's facts are in the file's ``metadata_props``. path: ends in ``.onnx``.
    Raises ConfigError if the packages are missing, ArtifactError if the network cannot be written as ONNX, or what was
    written computes something else.
    """
    runtime = _runtime()
    model = FinestMap(artifact.model()).eval()
    if sum(tensor.nbytes for tensor in model.state_dict().values()) >= LARGEST:
        raise ArtifactError("The weights are more than the 2 GB that an ONNX file holds.", remedy="Use --to torch-export.")
    graph = trace(model, artifact.meta.plan.sampling.patch)
    content = _converted(graph)
    _tidy(content, graph)
    for key, value in facts(artifact, graph).items():
        content.metadata_props.add(key=key, value=value)
    data = content.SerializeToString()
    session = runtime.InferenceSession(data, providers=["CPUExecutionProvider"])

    def compute(image: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {"image": image.numpy()})[0])

    found = difference(graph, model, compute)
    with written_beside(path) as new:
        new.write_bytes(data)
    return Exported(graph, found)


def _runtime() -> Any:
    """ONNX Runtime. Raises ConfigError if a package is missing."""
    for name in PACKAGES:
        try:
            module = import_module(name)
        except ImportError as error:
            raise ConfigError(
                f"ONNX files are made with {', '.join(PACKAGES)}, and {name} cannot be imported.",
                where="--to onnx",
                remedy="pip install 'medae[onnx]'",
            ) from error
    return module


def _converted(graph: Graph) -> Any:
    """The ONNX model (a protobuf message). Raises ArtifactError if an operation has no counterpart."""
    try:
        with _quiet():
            program = torch.onnx.export(
                graph.program, dynamo=True, input_names=["image"], output_names=["map"], verbose=False
            )
    except torch.onnx.OnnxExporterError as error:
        raise ArtifactError(
            f"This network cannot be written as ONNX: {first_line(error.__cause__ or error)}",
            remedy="Use --to torch-export or --to bundle.",
        ) from error
    assert program is not None  # dynamo gives a program
    return program.model_proto


@contextmanager
def _quiet() -> Iterator[None]:
    """Without remarks on torchvision, which is not needed, and on what torch itself uses that is deprecated."""
    log = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def _tidy(content: Any, graph: Graph) -> None:
    """Let free sizes have names that a person understands, ``batch`` and ``4*n0``, and drop notes on where torch ran."""
    for node in content.graph.node:
        del node.metadata_props[:]
    names = ["batch", "", *(f"n{place}" for place in range(len(graph.axes)))]
    symbols = {}
    for dim, name in zip(content.graph.input[0].type.tensor_type.shape.dim, names, strict=True):
        if found := re.search(r"\bs\d+\b", dim.dim_param):
            symbols[found[0]] = name
    for value in (*content.graph.input, *content.graph.output, *content.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = re.sub(r"\bs\d+\b", lambda found: symbols.get(found[0], found[0]), dim.dim_param)
