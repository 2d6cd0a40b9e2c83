"""A network as a ``.pt2`` file of torch.export, which torch runs without medae."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from medae.artifact import Artifact
from medae.errors import ArtifactError
from medae.export.beside import written_beside
from medae.export.bundled.finest import FinestMap
from medae.export.graph import Exported, difference, facts, first_line, trace

FACTS = "medae.json"
"""The file within the archive that says what the model is."""


def export_torch(artifact: Artifact, path: Path) -> Exported:
    """Write the network, load it again and compare. path: ends in ``.pt2``.

    Raises ArtifactError if torch cannot make a graph of the network, or what was written computes something else.
    """
    model = FinestMap(artifact.model()).eval()
    graph = trace(model, artifact.meta.plan.sampling.patch)
    with written_beside(path) as new:
        try:
            torch.export.save(graph.program, new, extra_files={FACTS: json.dumps(facts(artifact, graph), indent=1)})
            loaded = torch.export.load(new).module()
        except RuntimeError as error:
            raise ArtifactError(
                f"torch cannot store this network as a graph: {first_line(error)}", remedy="Use --to onnx or --to bundle."
            ) from error
        found = difference(graph, model, loaded)
    return Exported(graph, found)
