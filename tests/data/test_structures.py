"""Structures that are put together from the values of an atlas, wherever its label maps are read."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medae.config import validate
from medae.data.check import check_manifest
from medae.data.reading import read_array, read_image
from medae.data.sources import AutoSource, ManifestSource, open_manifest, write_manifest
from medae.errors import ConfigError
from pipelines.segmenting import label_names, reference

STRUCTURES = {"ventricles": [47, 48], "hippocampus": 4}


@pytest.fixture
def atlas(tmp_path: Path) -> Path:
    """Two scans with a label map of four values, with gaps, stored from left to right."""
    for number in range(2):
        labels = np.zeros((6, 5, 4), dtype=np.int16)
        labels[0, 0, 0], labels[1, 0, 0], labels[2, 0, 0], labels[3, :, 0] = 47, 48, 4, 207
        image = np.random.default_rng(number).normal(size=labels.shape).astype(np.float32)
        for end, array in (("T1w", image), ("dseg", labels)):
            nib.save(nib.Nifti1Image(array, np.diag([-1.0, 1.0, 1.0, 1.0])), tmp_path / f"s{number}_{end}.nii.gz")
    return tmp_path


def opened(root: Path, structures: dict | None = None):
    return open_manifest(validate(AutoSource, {"root": root, "structures": structures}))


def test_label_maps_have_the_structures_and_nothing_else_wherever_they_are_read(atlas: Path) -> None:
    manifest = opened(atlas, STRUCTURES)
    case = manifest.cases[0]
    ref = case.targets["label"]
    assert manifest.labels == {"label": {0: "background", 1: "ventricles", 2: "hippocampus"}}
    assert label_names(manifest, "label") == manifest.labels["label"], "no gap is left, and 207 is background"
    volume, (array, _) = read_image(manifest, ref), read_array(manifest, ref)
    assert str(volume.image.dtype) == "torch.int16"
    for found in (np.asarray(volume.image), array):
        assert found[0, 5, 0, 0] == found[0, 4, 0, 0] == 1, "RAS: the file's first voxel is the last from left to right"
        assert found[0, 3, 0, 0] == 2 and int((found > 0).sum()) == 3
    native, _ = reference(manifest, case, "label")
    assert native[0, 0, 0] == 1 and native[3, 0, 0] == 0
    assert np.array_equal(volume.image.affine.numpy(), read_image(manifest, case.images["T1w"]).image.affine.numpy())


def test_the_check_counts_structures_and_misses_none_that_is_there(atlas: Path) -> None:
    found = check_manifest(opened(atlas, STRUCTURES | {"nothing": 99}))
    assert next(iter(found.inspections.values())).targets["label"].labels == {0: 117, 1: 2, 2: 1}
    assert {finding.problem for finding in found.findings if "declared" in finding.problem} == {
        "no label map has the declared label 3 (nothing) of 'label'"
    }


def test_other_structures_are_other_data(atlas: Path) -> None:
    plain, grouped, turned = opened(atlas), opened(atlas, STRUCTURES), opened(atlas, dict(reversed(STRUCTURES.items())))
    assert len({plain.digest(), grouped.digest(), turned.digest()}) == 3
    assert opened(atlas, STRUCTURES).digest() == grouped.digest()


def test_a_written_manifest_is_opened_with_its_structures(atlas: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("written") / "manifest.json"
    source = validate(AutoSource, {"root": atlas, "structures": STRUCTURES})
    write_manifest(open_manifest(source), source, file)
    again = open_manifest(ManifestSource(root=atlas, file=file))
    assert again.digest() == open_manifest(source).digest()
    assert again.cases[0].targets["label"].groups == ((47, 48), (4,))


@pytest.mark.parametrize(
    ("structures", "words"),
    [
        ({"a": [1, 2], "b": 2}, "value 2 belongs to 'a' and to 'b'"),
        ({"a": 0}, "0 is background"),
        ({"a": []}, "'a' has no value"),
        ({"a": 40000}, "label values are 1 to 32767"),
        ({}, "at least 1"),
        ({"a": [47, 47]}, "47 is twice in 'a'"),
        ({"background": 47}, "'background' is no name"),
        ({" ": 47}, "is no name"),
        ({"a": True}, "should be an integer"),
    ],
)
def test_structures_that_mean_nothing_are_refused(atlas: Path, structures: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        opened(atlas, structures)


def test_phantoms_have_none(tmp_path: Path) -> None:
    (tmp_path / "phantom.json").write_text('{"subjects": 2, "spacing": 8.0}')
    with pytest.raises(ConfigError, match="Phantoms"):
        opened(tmp_path, STRUCTURES)


def test_without_a_label_map_nothing_can_be_put_together(atlas: Path) -> None:
    for file in atlas.glob("*_dseg*"):
        file.unlink()
    with pytest.raises(ConfigError, match="no label map"):
        opened(atlas, STRUCTURES)
