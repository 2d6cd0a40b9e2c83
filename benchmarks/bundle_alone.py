"""A bundle in a new environment with MONAI and no medae: does it run there, and are its masks those of ``medae predict``?

    python benchmarks/bundle_alone.py MODEL SCANS             SCANS: a folder of NIfTI files
    python benchmarks/bundle_alone.py MODEL SCANS --env DIR   keep the environment there, and use it again

MODEL is a segmenter: a folder, ``runs:/...`` or ``models:/...``. The environment gets what the card of the bundle says and
nothing else, from the package index; then MONAI's own commands run in it: ``run``, ``verify_net_in_out``, and with
``--schema FILE`` (MONAI's schema of metadata, which MONAI would fetch) ``verify_metadata``. A line is added to
``results/bundle_alone.jsonl``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
import venv
from pathlib import Path
from platform import machine, python_version
from typing import Any

import nibabel as nib
import numpy as np

from medae.artifact import load_artifact
from medae.tracking.models import resolve_model
from pipelines import export, predict

RESULTS = Path(__file__).parent / "results" / "bundle_alone.jsonl"
FILES = ("--config_file", "configs/inference.json")
META = ("--meta_file", "configs/metadata.json")


def new_environment(folder: Path, packages: list[str]) -> Path:
    """Its Python. packages: what is installed."""
    python = folder / "bin" / "python"
    if not python.is_file():
        venv.create(folder, with_pip=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
    alone = subprocess.run([python, "-I", "-c", "import medae"], capture_output=True, check=False)
    if alone.returncode == 0:
        raise SystemExit(f"medae is installed in {folder}: it would prove nothing.")
    return python


def called(python: Path, bundle: Path, *words: str | Path) -> float:
    """Run a command of MONAI's in the bundle's folder; seconds."""
    start = time.perf_counter()
    known = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [python, "-m", "monai.bundle", *words]
    done = subprocess.run(command, cwd=bundle, env=known, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"monai.bundle {words[0]} failed:\n{done.stderr[-3000:]}")
    return round(time.perf_counter() - start, 1)


def compared(one: Path, other: Path) -> dict[str, Any]:
    """The label maps of two folders: how many, voxels, and how many of them differ. Raises SystemExit for other geometry."""
    voxels = different = foreground = 0
    names = sorted(path.name for path in one.glob("*.nii.gz"))
    for name in names:
        a, b = (nib.load(folder / name) for folder in (one, other))
        if a.shape != b.shape or not np.array_equal(a.affine, b.affine):
            raise SystemExit(f"{name} lies on another grid.")
        first, second = (np.asarray(image.dataobj) for image in (a, b))
        voxels += first.size
        foreground += int(np.count_nonzero(first))
        different += int(np.count_nonzero(first != second))
    return {"scans": len(names), "voxels": voxels, "foreground": foreground, "different": different}


def main() -> None:
    """Export, install, run, compare, and add a line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("scans", type=Path)
    parser.add_argument("--env", type=Path, help="folder of the environment; by default one that is gone afterwards")
    parser.add_argument("--schema", type=Path, help="MONAI's schema of a bundle's metadata")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        bundle = work / "bundle"
        export.run(chosen.model, bundle, "bundle", as_json=False)
        needs = json.loads((bundle / "configs/metadata.json").read_text(encoding="utf-8"))
        packages = [
            f"monai[fire]=={needs['monai_version']}",
            f"torch=={needs['pytorch_version']}",
            *(["jsonschema"] if chosen.schema else []),
        ]
        packages += [f"{key}=={value}" for key, value in needs["required_packages_version"].items()]
        python = new_environment(chosen.env or work / "env", packages)
        scans = chosen.scans.resolve()
        seconds = {
            "run": called(python, bundle, "run", *FILES, "--dataset_dir", scans, "--output_dir", work / "alone"),
            "verify_net_in_out": called(python, bundle, "verify_net_in_out", "network_def", *META, *FILES),
        }
        if chosen.schema is not None:
            seconds["verify_metadata"] = called(
                python, bundle, "verify_metadata", *META, "--filepath", chosen.schema.resolve()
            )
        predict.run(chosen.model, scans, work / "medae", {"device": "cpu"})
        found = compared(work / "medae", work / "alone")
    digest = load_artifact(resolve_model(chosen.model)).digest
    facts = {"input": scans.name, "model": digest, **found, "seconds": seconds, "packages": packages}
    facts |= {"python": python_version(), "machine": machine()}
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(json.dumps(facts) + "\n")
    print(json.dumps(facts, indent=2))


if __name__ == "__main__":
    main()
