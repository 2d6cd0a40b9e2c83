"""Bundles run by MONAI where medae is not to be had: the label maps are those of medae predict, voxel by voxel."""

from __future__ import annotations

import importlib.util
import json
import pickletools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import monai.bundle
import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.data.dataset import Dataset
from monai.transforms.compose import Compose
from safetensors.torch import load_file
from scipy import ndimage
from stored import stored_model

import medae
from medae.artifact import load_artifact
from medae.config import to_dict
from medae.export.bundle import SOURCE, export_bundle
from medae.models.networks import build_network
from pipelines import predict

WITHOUT = ("medae", "pipelines", "pydantic", "yaml", "SimpleITK", "pydicom", "mlflow")

RUNNER = """
import json, os, sys

class Refusing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in WITHOUT:
            raise ImportError(f"{name} is not to be had here")

WITHOUT, runs = json.loads(sys.argv[1]), json.loads(sys.argv[2])
sys.meta_path.insert(0, Refusing())
try:
    import medae
except ImportError:
    pass
else:
    raise SystemExit("medae is there")
from monai.bundle import run, verify_net_in_out
before = list(sys.path)
for bundle, options in runs.items():
    os.chdir(bundle)
    run(config_file="configs/inference.json", **options)
    verify_net_in_out("network_def", meta_file="configs/metadata.json", config_file="configs/inference.json", device="cpu")
    for name in [name for name in sys.modules if name.split(".")[0] == "scripts"]:
        del sys.modules[name]
    sys.path[:] = before
"""

ZSCORE, ROBUST = {"kind": "zscore"}, {"kind": "robust_z"}
CASES: dict[str, dict[str, Any]] = {
    "volumes": {
        "space": {"foreground": "nonzero", "spacing": [1.5, 1.5, 2.0], "intensity": ZSCORE},
        "provenance": {"mirrored": [0, 2], "flips": True},
    },
    "slices": {
        "dims": 2,
        "space": {"foreground": "head", "channels": ["T1", "FLAIR"], "slices": 3, "spacing": [1.5, 1.5, None]},
        "encoder": {"stem": "space_to_depth", "strides": [[2, 2], [2, 2]], "block": "residual"},
    },
    "ensemble": {
        "network": "ensemble",
        "space": {"foreground": "brain", "intensity": ROBUST, "spacing": [2.0, 2.0, 2.0]},
        "choice": {"decoder": {"upsampling": "cubic", "skips": "sum"}},
    },
}

SCHEMA = {
    "type": "object",
    "required": [
        *("schema", "version", "monai_version", "pytorch_version", "numpy_version", "required_packages_version"),
        *("task", "description", "authors", "copyright", "network_data_format"),
    ],
    "additionalProperties": {"type": ["string", "object"]},
    "properties": {
        "network_data_format": {
            "required": ["inputs", "outputs"],
            "additionalProperties": {
                "additionalProperties": {
                    "required": ["type", "format", "num_channels", "spatial_shape", "dtype", "value_range"],
                    "properties": {
                        "num_channels": {"type": "integer"},
                        "spatial_shape": {"type": "array", "items": {"type": ["string", "integer"]}},
                        "value_range": {"type": "array", "items": {"type": "number"}},
                        "is_patch_data": {"type": "boolean"},
                        "channel_def": {"type": "object"},
                    },
                }
            },
        }
    },
}
"""What MONAI's specification of bundles asks of their metadata; its own schema, of 2024, asks the same."""


def write_scan(path: Path, seed: int, codes: str) -> None:
    """Blobs on a background of zeros, oblique, on voxels of 1.2 x 1.1 x 2.5 mm."""
    noise = np.random.default_rng(seed).standard_normal((22, 19, 12))
    image = ndimage.gaussian_filter(noise, 1.5) * 300 + 100
    image[:3] = 0
    image[:, :2] = 0
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(0.2), -np.sin(0.2)], [np.sin(0.2), np.cos(0.2)]]
    affine = turn @ np.diag([1.2, 1.1, 2.5, 1.0])
    affine[:3, 3] = -10, 20, 3
    scan = nib.Nifti1Image(image.astype(np.float32), affine)
    scan.set_sform(affine, 1)
    scan.set_qform(affine, 2)
    orientation = nib.orientations.ornt_transform(nib.io_orientation(affine), nib.orientations.axcodes2ornt(codes))
    nib.save(scan.as_reoriented(orientation), path)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scans, masks, models, their bundles, and what those made of the scans without medae."""
    folder = tmp_path_factory.mktemp("bundles")
    for name, codes in {
        "one/a.nii.gz": "LPS",
        "one/b.nii": "PIR",
        "two/s_0000.nii.gz": "RAS",
        "two/s_0001.nii.gz": "RAS",
    }.items():
        (folder / name).parent.mkdir(exist_ok=True)
        write_scan(folder / name, len(name), codes)
    (folder / "masks").mkdir()
    for path in (folder / "one").iterdir():
        scan = nib.load(path)
        mask = np.zeros(scan.shape, np.uint8)
        mask[3:-3, 3:-3, 2:-2] = 1
        nib.save(nib.Nifti1Image(mask, scan.affine, scan.header), folder / "masks" / path.name)
    runs = {}
    for case, keys in CASES.items():
        export_bundle(stored_model(folder / case / "model", **keys), folder / case / "bundle")
        options = {"dataset_dir": str(scans_of(folder, case)), "output_dir": str(folder / case / "monai")}
        runs[str(folder / case / "bundle")] = options | ({"mask_dir": str(folder / "masks")} if case == "ensemble" else {})
    words = [sys.executable, "-I", "-c", RUNNER, json.dumps(WITHOUT), json.dumps(runs)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def scans_of(folder: Path, case: str) -> Path:
    return folder / ("two" if case == "slices" else "one")


@pytest.mark.parametrize("case", CASES)
def test_the_label_maps_are_those_of_medae(case: str, work: Path) -> None:
    options = {"device": "cpu"} | ({"brain_mask": work / "masks"} if case == "ensemble" else {})
    predict.run(str(work / case / "model"), scans_of(work, case), work / case / "medae", options)
    found = sorted((work / case / "monai").iterdir())
    assert [path.name for path in found] == (["s.nii.gz"] if case == "slices" else ["a.nii.gz", "b.nii.gz"])
    for path in found:
        of_bundle, of_medae = nib.load(path), nib.load(work / case / "medae" / path.name)
        labels = np.asarray(of_bundle.dataobj)
        np.testing.assert_array_equal(labels, np.asarray(of_medae.dataobj))
        assert of_bundle.header == of_medae.header
        assert np.bincount(labels.ravel()).min() > 20, "nearly empty maps would prove nothing"


@pytest.fixture
def inside(work: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The bundle of volumes as the working folder, from which its scripts are imported."""
    yield from _enter(work / "volumes" / "bundle", monkeypatch)


def _enter(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(bundle)
    monkeypatch.syspath_prepend(bundle)
    yield bundle
    for name in [name for name in sys.modules if name.split(".")[0] == "scripts"]:
        del sys.modules[name]


def test_monai_verifies_the_metadata(inside: Path, tmp_path: Path) -> None:
    pytest.importorskip("jsonschema")
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps(SCHEMA))
    monai.bundle.verify_metadata(meta_file="configs/metadata.json", filepath=schema)
    metadata = json.loads(Path("configs/metadata.json").read_text())
    del metadata["network_data_format"]
    (tmp_path / "metadata.json").write_text(json.dumps(metadata))
    with pytest.raises(ValueError, match="network_data_format"):
        monai.bundle.verify_metadata(meta_file=str(tmp_path / "metadata.json"), filepath=schema)


def test_the_metadata_has_what_monai_asks_for(inside: Path) -> None:
    metadata = json.loads((inside / "configs/metadata.json").read_text())
    required: Any = SCHEMA["required"]
    assert set(required) <= set(metadata)
    assert set(metadata["required_packages_version"]) == {"nibabel", "safetensors", "scikit-image", "scipy"}
    assert metadata["network_data_format"]["outputs"]["pred"]["channel_def"] == {
        "0": "background",
        "1": "left",
        "2": "right",
    }


def test_a_bundle_has_the_parts_that_programs_for_bundles_look_for(inside: Path, work: Path) -> None:
    scans = str(work / "one")
    workflow = ConfigWorkflow("configs/inference.json", workflow_type="infer", logging_file=False, dataset_dir=scans)
    workflow.initialize()
    assert workflow.check_properties() == []


def test_nothing_of_it_is_pickled_or_knows_this_machine(work: Path) -> None:
    for case in CASES:
        for path in (work / case / "bundle").rglob("*"):
            if not path.is_file() or "__pycache__" in path.parts:
                continue
            contents = path.read_bytes()
            assert path.suffix not in (".pt", ".pth", ".pkl"), path
            with pytest.raises((ValueError, EOFError)):
                list(pickletools.genops(contents))
            for place in (work, Path(medae.__file__).parents[1], Path.home()):
                assert str(place).encode() not in contents, path


def test_the_source_is_that_of_medae_but_for_its_imports(work: Path) -> None:
    folder = work / "volumes/bundle/scripts" / SOURCE
    files = {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*.py")}
    assert {"models/encoder.py", "preprocessing/prepare.py", "inference/predict.py", "export/bundled/frozen.py"} <= set(
        files
    )
    for name, text in files.items():
        plain = re.sub(r"^if TYPE_CHECKING:\n(?:    .*\n|\n)+", "", text, flags=re.MULTILINE)
        assert not re.search(r"^\s*(?:from|import) (?:medae|pydantic|yaml)\b", plain, re.MULTILINE), name
        original = (Path(medae.__file__).parent / name).read_text()
        assert text.startswith("# Copied from medae"), name
        assert without_imports(text)[1:] == without_imports(original), name


def without_imports(text: str) -> list[str]:
    return [line for line in text.splitlines() if not line.lstrip().startswith("from ")]


def test_its_models_folder_is_the_model(work: Path) -> None:
    assert load_artifact(work / "slices/bundle/models").digest == load_artifact(work / "slices/model").digest


def test_a_shading_correction_brings_simpleitk_with_it(tmp_path: Path) -> None:
    artifact = stored_model(tmp_path / "model", space={"bias_correction": "n4", "foreground": "nonzero"})
    assert "SimpleITK" in export_bundle(artifact, tmp_path / "bundle")
    assert (tmp_path / "bundle/scripts" / SOURCE / "preprocessing/bias.py").is_file()


def test_names_that_monai_would_run_are_texts(tmp_path: Path) -> None:
    labels = {0: "background", 1: "$1/0", 2: "@missing"}
    artifact = stored_model(
        tmp_path / "model", dims=2, labels=labels, space={"channels": ["%nowhere"]}, metrics={"$1/0": 0.5}
    )
    export_bundle(artifact, tmp_path / "bundle")
    parser = ConfigParser()
    parser.read_config(tmp_path / "bundle/configs/inference.json")
    parser.read_meta(tmp_path / "bundle/configs/metadata.json")
    parser.parse()
    form = parser.get_parsed_content("_meta_::network_data_format")
    assert form["outputs"]["pred"]["channel_def"] == {"0": "background", "1": "1/0", "2": "missing"}
    assert form["inputs"]["image"]["channel_def"] == {"0": "nowhere"}
    assert parser.get_parsed_content("_meta_::eval_metrics") == {"1/0": 0.5}


@pytest.mark.parametrize("kind", ["autoencoder", "detector", "detector of several"])
def test_what_predicts_no_labels_is_a_network_alone(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    choice = {} if kind == "autoencoder" else {"lesion_head": True}
    network = "autoencoder_ensemble" if "several" in kind else "autoencoder"
    artifact = stored_model(tmp_path / "model", network, 2, kind=kind.split(maxsplit=1)[0], choice=choice)
    export_bundle(artifact, tmp_path / "bundle")
    entered = _enter(tmp_path / "bundle", monkeypatch)
    next(entered)
    configuration = "configs/inference.json"
    monai.bundle.verify_net_in_out("network_def", "configs/metadata.json", configuration, device="cpu")
    outputs = json.loads(Path("configs/metadata.json").read_text())["network_data_format"]["outputs"]["pred"]
    assert list(outputs["channel_def"].values()) == ["image", "lesion (logit)"][: 1 + len(choice)]
    with pytest.raises(ValueError, match="run ID 'run' doesn't exist"):
        monai.bundle.run(config_file=configuration, logging_file=False)
    assert "network alone" in (tmp_path / "bundle/docs/README.md").read_text()
    next(entered, None)


@pytest.fixture(scope="module")
def scripts(work: Path) -> Iterator[ModuleType]:
    """The scripts of a bundle, as a package of another name."""
    folder = work / "volumes/bundle/scripts"
    spec = importlib.util.spec_from_file_location(
        "carried", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None and spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules["carried"] = package
    spec.loader.exec_module(package)
    yield package
    for name in [name for name in sys.modules if name.split(".")[0] == "carried"]:
        del sys.modules[name]


NETWORKS = {
    "unet": {"choice": {"decoder": {"skips": ["sum"]}, "deep_supervision": False}},
    "segnet": {},
    "fcn": {"choice": {"scored": 1}},
    "autoencoder": {"choice": {"bottleneck": {"kind": "dense", "size": 3, "input_size": [8, 8]}}},
    "vae": {"encoder": {"block": "residual", "norm": "batch"}},
    "ensemble": {},
}


@pytest.mark.parametrize("kind", NETWORKS)
def test_frozen_configurations_build_the_same_networks(kind: str, scripts: ModuleType, tmp_path: Path) -> None:
    keys: dict[str, Any] = NETWORKS[kind]
    artifact = stored_model(tmp_path, kind, 2, **keys)
    part = f"carried.{SOURCE}"
    frozen, networks = (importlib.import_module(f"{part}.{name}") for name in ("export.bundled.frozen", "models.networks"))
    config = frozen.read(networks.StoredConfig, to_dict(artifact.meta.network))
    network = networks.build_network(config)
    assert type(network).__name__ == type(build_network(artifact.meta.network)).__name__
    assert type(network) is not type(build_network(artifact.meta.network)), "it is built from the copied source"
    network.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    image = torch.randn(1, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(network.eval()(image).finest, artifact.model()(image).finest)


def refusal(scripts: ModuleType) -> type[Exception]:
    error: type[Exception] = importlib.import_module(f"carried.{SOURCE}.errors").DataError
    return error


def test_folders_without_scans_for_the_model_are_refused(scripts: ModuleType, work: Path, tmp_path: Path) -> None:
    model = scripts.StoredModel(work / "slices/bundle")
    with pytest.raises(refusal(scripts), match="no scans") as caught:
        model.scans(work / "one")
    assert "NAME_0000, NAME_0001" in str(caught.value)
    write_scan(tmp_path / "x_0002.nii.gz", 0, "RAS")
    with pytest.raises(refusal(scripts), match="takes the channels T1, FLAIR"):
        model.scans(tmp_path)


def test_results_never_take_the_place_of_scans(scripts: ModuleType, work: Path, tmp_path: Path) -> None:
    model = scripts.StoredModel(work / "volumes/bundle")
    with pytest.raises(refusal(scripts), match="take the place of the scans"):
        model.scans(work / "one", None, work / "two/../one")
    assert len(model.scans(work / "one", None, tmp_path)) == 2
    for name in ("a.nii", "a.nii.gz"):
        write_scan(tmp_path / name, 0, "RAS")
    with pytest.raises(refusal(scripts), match=r"same name as a\.nii"):
        model.scans(tmp_path)


def test_a_missing_brain_mask_is_named(scripts: ModuleType, work: Path) -> None:
    model = scripts.StoredModel(work / "ensemble/bundle")
    (scan, _) = model.scans(work / "one")
    with pytest.raises(refusal(scripts), match="needs the brain mask") as caught:
        scripts.PrepareScand(model)(scan)
    assert "mask_dir" in str(caught.value)


def test_scans_unlike_the_training_scans_are_refused(
    scripts: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    domain = {"scans": 2, "modalities": ["MR"], "spacing": [[0.1, 0.2]] * 3, "extent": [[10, 30]] * 3}
    export_bundle(stored_model(tmp_path / "model", domain=domain), tmp_path / "bundle")
    (tmp_path / "scans").mkdir()
    write_scan(tmp_path / "scans/x.nii", 0, "RAS")
    model = scripts.StoredModel(tmp_path / "bundle")
    (scan,) = model.scans(tmp_path / "scans")
    with pytest.raises(refusal(scripts), match=r"Voxels are 1\.2 mm"):
        scripts.PrepareScand(model)(scan)
    data = scripts.PrepareScand(model, anyway=True)(scan)
    assert data["image"].shape[0] == 1
    caplog.clear()
    everywhere = torch.zeros(3, *data["prepared"].shape)
    everywhere[2] = 1
    assert (scripts.LabelsOfScand(model)({**data, "pred": everywhere})["pred"] == 2).any()
    assert "reaches the left, right" in caplog.text and "may be cut off" in caplog.text


def test_a_scan_that_fails_does_not_stop_the_others(scripts: ModuleType, work: Path, tmp_path: Path) -> None:
    model = scripts.StoredModel(work / "volumes/bundle")
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans/a.nii").write_bytes(b"no image")
    write_scan(tmp_path / "scans/b.nii", 1, "RAS")
    dataset = Dataset(model.scans(tmp_path / "scans"), Compose([scripts.PrepareScand(model)]))
    after = Compose([scripts.LabelsOfScand(model), scripts.WriteLabelsd(tmp_path / "out")])
    with pytest.raises(refusal(scripts), match="1 of 2 scans failed:\nThe image cannot be read"):
        scripts.ScanEvaluator(dataset, model.network(), scripts.ScanInferer(model), after).run()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["b.nii.gz"]


def test_a_fault_is_not_taken_for_a_users_error(scripts: ModuleType, work: Path) -> None:
    def fail(_data: Any) -> Any:
        raise KeyError("a fault")

    model = scripts.StoredModel(work / "volumes/bundle")
    dataset = Dataset(model.scans(work / "one"), Compose([fail]))
    with pytest.raises(RuntimeError, match="applying transform"):
        scripts.ScanEvaluator(dataset, model.network(), scripts.ScanInferer(model), Compose([])).run()


def test_what_a_bundle_does_without_says_so(scripts: ModuleType, tmp_path: Path) -> None:
    read = importlib.import_module(f"carried.{SOURCE}.formats.read")
    (tmp_path / "scan.nrrd").write_bytes(b"NRRD")
    with pytest.raises(refusal(scripts), match="'read_itk', which a bundle does without"):
        read.read_array([tmp_path / "scan.nrrd"], "intensity")
