"""A model as a MONAI bundle: configuration, weights and source in one folder, which MONAI runs without medae.

``models/`` is the artifact itself, ``scripts/`` the source that takes a scan through it: the network, and medae's own
preprocessing, sliding window and way back, copied, so that the label maps are those of ``medae predict``. Nothing is
pickled, so there is no ``model.pt``.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import medae
from medae.artifact import CARD, FILES, Artifact, ArtifactMeta
from medae.config import flatten
from medae.export.beside import written_beside
from medae.export.bundled.finest import has_lesion_head
from medae.export.carry import Carried, carry
from medae.modelcard import WHAT
from medae.tracking.provenance import package_version

SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
SOURCE = "medae_source"
"""The package within ``scripts`` that medae's modules become."""

COMPONENTS = "medae.export.bundled.components"
NAMES = ("LabelsOfScand", "PrepareScand", "ScanEvaluator", "ScanInferer", "StoredModel", "WriteLabelsd")
BIAS = "medae.preprocessing.bias"
DISTRIBUTIONS = {"skimage": "scikit-image"}
HAVE_KEYS = {"monai", "torch", "numpy"}
"""Packages whose versions have a key of their own in a bundle's metadata."""

EVALUATED = "$@%"
"""First letters of texts that MONAI does not take as they are: expressions, references, macros."""

NOT_RECORDED = "Not recorded"


def export_bundle(artifact: Artifact, folder: Path) -> dict[str, str]:
    """Write the bundle. Returns the packages that it needs beside MONAI, torch and numpy, and their versions.

    The bundle of a segmenter takes scans and gives label maps. That of an autoencoder or a detector is the network alone:
    the former predicts nothing, and the latter's score is more than its network.
    folder: new. Raises DataError where the disk refuses.
    """
    meta = artifact.meta
    at_home = (BIAS,) if meta.plan.space.bias_correction == "none" else ()  # it needs SimpleITK
    carried = carry([COMPONENTS], at_home)
    names = sorted(DISTRIBUTIONS.get(name, name) for name in carried.needs - HAVE_KEYS)
    needs = {name: str(package_version(name)) for name in names}
    with written_beside(folder) as new:
        for part in ("configs", "models", "docs"):
            (new / part).mkdir(parents=True)
        for name in FILES:
            if (artifact.folder / name).is_file():
                shutil.copyfile(artifact.folder / name, new / "models" / name)
        _write_source(carried, new / "scripts")
        _write_json(new / "configs" / "metadata.json", _metadata(artifact, needs))
        _write_json(new / "configs" / "inference.json", _inference(meta))
        card = (artifact.folder / CARD).read_text(encoding="utf-8")
        (new / "docs" / "README.md").write_text(f"{card}\n{_usage(meta, needs)}", encoding="utf-8")
        (new / "LICENSE").write_text(str(distribution("medae").read_text("licenses/LICENSE")), encoding="utf-8")
    return needs


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _write_source(carried: Carried, folder: Path) -> None:
    for name, text in carried.files.items():
        path = folder / SOURCE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    module = f".{SOURCE}.{COMPONENTS.removeprefix('medae.')}"
    text = (
        f'"""What configs/inference.json names."""\n\nfrom {module} import {", ".join(NAMES)}\n\n__all__ = {list(NAMES)}\n'
    )
    (folder / "__init__.py").write_text(text, encoding="utf-8")


def _inference(meta: ArtifactMeta) -> dict[str, Any]:
    """The configuration that MONAI runs. What the model is like is read by its own source, and is not repeated here."""
    network = {
        "bundle_root": ".",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "model": {"_target_": "scripts.StoredModel", "bundle_root": "@bundle_root"},
        "network_def": "$@model.network()",
        "network": "$@network_def.to(@device)",
    }
    if meta.kind != "segmenter":
        return network
    masked = meta.plan.space.foreground == "brain"
    return {
        **network,
        "dataset_dir": "$@bundle_root + '/scans'",
        **({"mask_dir": "$@bundle_root + '/masks'"} if masked else {}),
        "output_dir": "$@bundle_root + '/eval'",
        "anyway": False,
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [{"_target_": "scripts.PrepareScand", "model": "@model", "anyway": "@anyway"}],
        },
        "dataset": {
            "_target_": "Dataset",
            "data": f"$@model.scans(@dataset_dir, {'@mask_dir' if masked else 'None'}, @output_dir)",
            "transform": "@preprocessing",
        },
        "inferer": {"_target_": "scripts.ScanInferer", "model": "@model"},
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "scripts.LabelsOfScand", "model": "@model"},
                {"_target_": "scripts.WriteLabelsd", "folder": "@output_dir"},
            ],
        },
        "evaluator": {
            "_target_": "scripts.ScanEvaluator",
            "dataset": "@dataset",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
        },
        "run": ["$@evaluator.run()"],
    }


def _metadata(artifact: Artifact, needs: Mapping[str, str]) -> dict[str, Any]:
    """What MONAI wants to know of a bundle."""
    meta = artifact.meta
    version = f"medae {medae.__version__}, model {artifact.digest[:12]}"
    return {
        "schema": SCHEMA,
        "version": "1.0.0",
        "changelog": {"1.0.0": f"Exported by {version}"},
        "monai_version": package_version("monai"),
        "pytorch_version": str(package_version("torch")).split("+")[0],
        "numpy_version": package_version("numpy"),
        "required_packages_version": dict(needs),
        "name": f"{meta.kind} ({meta.network.kind})",
        "task": f"{meta.kind}{f' of {meta.target}' if meta.target else ''}",
        "description": WHAT[meta.kind],
        "authors": NOT_RECORDED,
        "copyright": f"{NOT_RECORDED}; scripts: Apache License 2.0, see LICENSE",
        "intended_use": "Research only, not diagnosis or treatment; see docs/README.md",
        "eval_metrics": {
            _inert(name): value for name, value in flatten(meta.metrics).items() if isinstance(value, (int, float))
        },
        "network_data_format": _format(meta),
    }


def _format(meta: ArtifactMeta) -> dict[str, Any]:
    """Input and output of the network, in the terms of MONAI's bundles."""
    patch = {"spatial_shape": list(meta.plan.sampling.patch), "dtype": "float32", "value_range": [], "is_patch_data": True}
    inputs, outputs = meta.plan.space.inputs, _outputs(meta)
    modality = "CT" if meta.plan.space.intensity.kind == "ct_window" else "n/a"
    return {
        "inputs": {
            "image": {
                "type": "image",
                "format": "magnitude",
                "modality": modality,
                "num_channels": len(inputs),
                **patch,
                "channel_def": {str(place): _inert(name) for place, name in enumerate(inputs)},
            }
        },
        "outputs": {
            "pred": {
                "type": "image",
                "format": "labels" if meta.kind == "segmenter" else "magnitude",
                "num_channels": len(outputs),
                **patch,
                "channel_def": {str(place): _inert(name) for place, name in enumerate(outputs)},
            }
        },
    }


def _outputs(meta: ArtifactMeta) -> list[str]:
    """What the channels of the network's output are."""
    config: Any = getattr(meta.network, "member", meta.network)
    if meta.kind == "segmenter":
        return [meta.labels.get(place, f"class {place}") for place in range(config.classes)]
    channels = meta.plan.space.channels
    count = config.out_channels or config.encoder.channels
    images = list(channels) if count == len(channels) else [f"output {place}" for place in range(count)]
    return [*images, "lesion (logit)"] if has_lesion_head(config) else images


def _inert(text: str) -> str:
    """A text as MONAI takes it as it is."""
    return text.lstrip(EVALUATED)


def _usage(meta: ArtifactMeta, needs: Mapping[str, str]) -> str:
    """How to use the folder, for people who have MONAI and no medae."""
    install = f"    pip install 'monai[fire]' {' '.join(needs)}\n"
    verify = (
        "    python -m monai.bundle verify_net_in_out network_def \\\n"
        "        --meta_file configs/metadata.json --config_file configs/inference.json\n"
    )
    parts = ["## Use as a MONAI bundle\n", "In this folder, without medae:\n", install]
    if meta.kind == "segmenter":
        masked = meta.plan.space.foreground == "brain"
        names = "" if len(meta.plan.space.channels) == 1 else ", named NAME_0000, NAME_0001 and so on, a number a channel"
        parts += [
            "    python -m monai.bundle run --config_file configs/inference.json \\\n"
            f"        --dataset_dir SCANS {'--mask_dir MASKS ' if masked else ''}--output_dir RESULTS\n",
            f"SCANS holds NIfTI files{names}. RESULTS gets a label map of each, on its own grid, as from `medae predict`.\n",
            "MASKS holds brain masks under the file names of the scans.\n" if masked else "",
            "A scan that is unlike the training scans is refused; `--anyway True` takes it all the same.\n",
        ]
    else:
        parts.append("The bundle is the network alone (`network_def`): images in the plan's space, as above, in and out.\n")
    parts += [
        "MONAI's own check of the network:\n",
        verify,
        "`models/` is the model as medae stores it, and medae opens that folder; `scripts/medae_source/` is copied from\n"
        "medae. There is no `model.pt`, which would be a pickle.\n",
    ]
    return "\n".join(part for part in parts if part)
