"""``medae export``: a trained model in a form that other programs run."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from medae.artifact import Artifact, load_artifact
from medae.errors import ConfigError
from medae.tracking.models import resolve_model
from pipelines.console import Screen, shown

Form = Literal["bundle", "onnx", "torch-export"]

ENDINGS = {"onnx": ".onnx", "torch-export": ".pt2"}

ALONE = {
    "autoencoder": "What is exported is the network, from an image in the plan's space to its reconstruction.",
    "segmenter": "What is exported is the network, from an image in the plan's space to logits. The way of a scan there and "
    "back is not; a bundle has it.",
    "detector": "What is exported is the network. The anomaly map, its calibration and the score are not: for them use "
    "medae predict.",
}


def run(model: str, out: Path, to: Form, as_json: bool = False) -> dict[str, Any]:
    """Export a model and check what was written. out: a new folder for a bundle, else a new file.

    Raises ConfigError for a place that is taken or has the wrong ending and for missing packages, ArtifactError for a
    network that cannot be written in this form.
    """
    screen = Screen(as_json)
    _refuse(out, to)
    artifact = load_artifact(resolve_model(model))
    said = _bundle(artifact, out, screen) if to == "bundle" else _graph(artifact, out, to, screen)
    if to != "bundle" or artifact.meta.kind != "segmenter":
        screen.note(ALONE[artifact.meta.kind])
    screen.say(f"Exported to {shown(out)}")
    result = {"stage": "export", "to": to, "kind": artifact.meta.kind, "digest": artifact.digest, **said}
    screen.json(result)
    return result


def _refuse(out: Path, to: Form) -> None:
    if out.exists():
        raise ConfigError(
            "There is something of this name already.", where=out, remedy="Choose another name, or remove what is there."
        )
    ending = ENDINGS.get(to)
    if ending is not None and out.suffix != ending:
        raise ConfigError(f"The name of this file has to end in {ending}.", where=out, remedy=f"Write {out.stem}{ending}.")


def _bundle(artifact: Artifact, out: Path, screen: Screen) -> dict[str, Any]:
    from medae.export.bundle import export_bundle

    needs = export_bundle(artifact, out)
    screen.note(f"The bundle needs monai and torch, and {', '.join(needs)}. How to run it: {shown(out / 'docs/README.md')}")
    return {"needs": needs}


def _graph(artifact: Artifact, out: Path, to: Form, screen: Screen) -> dict[str, Any]:
    if to == "onnx":
        from medae.export.onnx import export_onnx as export
    else:
        from medae.export.torch_export import export_torch as export
    screen.note("Making a graph of the network; this may take some minutes.")
    exported = export(artifact, out)
    sizes = exported.graph.sizes()
    if exported.graph.fixed:
        screen.warn(f"All sizes are fixed, because torch cannot leave them free here: {exported.graph.fixed}")
    voxels = " x ".join(sizes["axes"])
    screen.note(f"It takes images of {exported.graph.channels} channels; batch: {sizes['batch']}; voxels: {voxels}.")
    screen.note(f"Its numbers are those of the network to {exported.difference:.1g} of the largest.")
    return {"sizes": sizes, "fixed": exported.graph.fixed or None, "difference": exported.difference}
