import hashlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml

from medae.config import to_dict
from medae.data.case import Case, ImageRef, Manifest
from medae.data.sources import hash_ids
from medae.errors import DataError
from medae.planning.facts import Fingerprint
from medae.planning.fingerprint import background_rule, fingerprint, tail_weight


def write(
    root: Path, name: str, array: np.ndarray, spacing=(1.0, 1.0, 1.0), modality="unknown", kind="intensity"
) -> ImageRef:
    nib.save(nib.Nifti1Image(array, np.diag([*spacing, 1.0])), root / name)
    digest = hashlib.sha256((root / name).read_bytes()).hexdigest()
    return ImageRef(files=(name,), sha256=digest, kind=kind, modality=modality)


def manifest_of(root: Path, cases: list[Case], channels=("image",)) -> Manifest:
    return Manifest(source="test", root=root, channels=channels, cases=tuple(cases))


def noise(shape, low=10.0, high=100.0, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(low, high, shape).astype(np.float32)


def test_shapes_spacings_labels_and_percentiles(tmp_path):
    label = np.zeros((10, 8, 6), np.uint8)
    label[:5] = 1
    label[9, 7, 5] = 3
    cases = []
    for number, (shape, spacing) in enumerate([((10, 8, 6), (1.0, 1.0, 3.0)), ((10, 8, 6), (1.0, 1.0, 5.0))]):
        image = write(tmp_path, f"{number}.nii", np.linspace(100, 200, 480, dtype=np.float32).reshape(shape), spacing)
        values = label if number == 0 else np.minimum(label, 1)
        target = write(tmp_path, f"{number}_label.nii", values, spacing, kind="labels")
        cases.append(
            Case(id=str(number), subject=str(number), images={"image": image}, targets={"organ": target, "age": 3.0})
        )
    found = fingerprint(manifest_of(tmp_path, cases))
    assert found.cases == 2
    assert found.shapes == found.boxes == ((10, 8, 6), (10, 8, 6))
    assert found.median_spacing == pytest.approx((1.0, 1.0, 4.0))
    assert found.anisotropy == pytest.approx(4.0)
    assert found.foreground == ("all", "all")
    assert set(found.labels) == {"organ"}
    assert found.labels["organ"][1].cases == 2
    # the first label map has half of its voxels labelled 1, the second one more, which was 3
    assert found.labels["organ"][1].share == pytest.approx((240 / 480 + 241 / 480) / 2)
    assert found.labels["organ"][3].cases == 1
    assert found.labels["organ"][3].share == pytest.approx(1 / 480 / 2)
    # volumes in mm³: 240 and 241 voxels of 3 and 5 mm³; of the second case one voxel touches nothing
    assert found.labels["organ"][1].volume[1] == pytest.approx((720 + 1205) / 2)
    assert found.labels["organ"][1].pieces == pytest.approx(1.5)
    assert found.labels["organ"][3].piece == pytest.approx((3.0, 3.0, 3.0))
    values = found.intensities["image"]
    assert values.ranges == ((100.0, 200.0),) * 2
    assert values.eight_bit == 0
    # a uniform distribution: deviation 1 / sqrt(12), median absolute deviation 1 / 4 of its width
    assert values.heaviness == pytest.approx(4 / (1.4826 * np.sqrt(12)), rel=0.01)
    assert 100 < values.labelled[0] < values.labelled[2] < 200
    assert values.labelled[1] == pytest.approx(125, abs=1), "the first half of the voxels"
    assert (values.modality, values.guessed) == ("MR", True)
    assert values.lower == pytest.approx(100.5, abs=0.15)
    assert values.median == pytest.approx(150.0, abs=0.05)
    assert values.upper == pytest.approx(199.5, abs=0.15)
    assert values.mean == pytest.approx(150.0, abs=0.05)
    assert values.std == pytest.approx(100 / np.sqrt(12), rel=0.01)
    assert Fingerprint.model_validate(to_dict(found)) == found


@pytest.mark.parametrize(
    ("declared", "air", "modality", "guessed"),
    [
        ("unknown", -1000.0, "CT", True),
        ("unknown", -100.0, "MR", True),
        ("MR", -1000.0, "MR", False),
        ("CT", 0.0, "CT", False),
    ],
)
def test_modality_is_declared_or_guessed_from_hounsfield_units(tmp_path, declared, air, modality, guessed):
    image = noise((12, 12, 12), 0, 80)
    image[:6] = air
    case = Case(id="a", subject="a", images={"image": write(tmp_path, "a.nii", image, modality=declared)})
    found = fingerprint(manifest_of(tmp_path, [case])).intensities["image"]
    assert (found.modality, found.guessed) == (modality, guessed)


def test_filling_outside_the_field_of_view_does_not_widen_the_ct_window(tmp_path):
    image = noise((12, 12, 12), -900, 300)
    image[:4] = -3024
    case = Case(id="a", subject="a", images={"image": write(tmp_path, "a.nii", image)})
    found = fingerprint(manifest_of(tmp_path, [case])).intensities["image"]
    assert -900 <= found.lower < -850
    assert found.mean == pytest.approx(-300, abs=40)


def test_background_rules():
    whole = noise((20, 20, 20))
    stripped = np.zeros((20, 20, 20), np.float32)
    stripped[5:15, 5:15, 5:15] = noise((10, 10, 10))
    head = np.abs(np.random.default_rng(0).normal(0, 1, (20, 20, 20))).astype(np.float32)
    head[5:15, 5:15, 5:15] += noise((10, 10, 10), 60, 100)
    assert background_rule(whole) == "all"
    assert background_rule(stripped) == "nonzero"
    assert background_rule(head) == "head"
    assert background_rule(np.zeros((4, 4, 4), np.float32)) == "all"


def test_box_and_percentiles_are_those_of_the_foreground(tmp_path):
    image = np.zeros((20, 20, 20), np.float32)
    image[2:12, 5:10, 7:19] = noise((10, 5, 12), 50, 60)
    case = Case(id="a", subject="a", images={"image": write(tmp_path, "a.nii", image)})
    found = fingerprint(manifest_of(tmp_path, [case]))
    assert found.foreground == ("nonzero",)
    assert found.boxes == ((10, 5, 12),)
    assert found.shapes == ((20, 20, 20),)
    assert found.intensities["image"].lower >= 50


def test_only_so_many_cases_are_read_spread_over_the_data_set_and_always_the_same(tmp_path):
    cases = []
    for number in range(9):
        ref = write(tmp_path, f"{number}.nii", noise((4 + number, 6, 6), seed=number))
        cases.append(Case(id=str(number), subject=str(number), images={"image": ref}))
    done = []
    found = fingerprint(manifest_of(tmp_path, cases), limit=3, progress=lambda *counts: done.append(counts))
    assert found.cases == 9
    by_contents = sorted(cases, key=lambda case: case.images["image"].sha256)
    assert [shape[0] for shape in found.shapes] == [4 + int(by_contents[place].id) for place in (0, 4, 8)]
    assert done == [(1, 3), (2, 3), (3, 3)]
    assert fingerprint(manifest_of(tmp_path, cases), limit=3) == found


def test_axes_are_those_of_the_nearest_ras(tmp_path):
    affine = np.array([[0, 0, 2.0, 0], [-3.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(noise((5, 6, 7)), affine), tmp_path / "psr.nii")
    case = Case(id="a", subject="a", images={"image": ImageRef(files=("psr.nii",), sha256="0", kind="intensity")})
    found = fingerprint(manifest_of(tmp_path, [case]))
    assert found.shapes == ((7, 5, 6),)
    assert found.orientations == ("PSR",)
    assert found.median_spacing == pytest.approx((2.0, 3.0, 1.0))


def test_heavy_tails_and_scans_in_8_bits(tmp_path):
    draw = np.random.default_rng(0)
    heavy = draw.laplace(0, 10, (32, 32, 32)).astype(np.float32) + 1000
    whole = np.round(draw.uniform(20, 250, (32, 32, 32))).astype(np.float32)
    assert tail_weight(heavy) == pytest.approx(1.3, abs=0.08)  # 1.38 before clipping
    assert tail_weight(draw.normal(0, 1, 100_000)) == pytest.approx(1.0, abs=0.03)
    assert tail_weight(np.r_[np.zeros(600), np.arange(400)]) is None
    cases = [
        Case(id=name, subject=name, images={"image": write(tmp_path, f"{name}.nii", image)})
        for name, image in [("a", heavy), ("b", whole)]
    ]
    found = fingerprint(manifest_of(tmp_path, cases))
    assert found.intensities["image"].eight_bit == 1
    assert found.intensities["image"].tails == pytest.approx((1.3, 0.78), abs=0.1)
    assert found.intensities["image"].labelled is None
    read = yaml.safe_load(found.as_yaml())
    assert read["data"] == {"cases": 2, "channels": ["image"]}
    assert read["read"]["shapes"] == [[32, 32, 32]] * 2
    assert read["intensities of image"]["eight_bit"] == 1
    assert "# image: stored in 8 bits: 1 of 2 cases" in found.as_yaml()


def test_absent_channels_and_unreadable_files(tmp_path):
    first = write(tmp_path, "a.nii", noise((6, 6, 6)))
    cases = [Case(id="a", subject="a", images={"T1": first}), Case(id="b", subject="b", images={"T1": first, "T2": first})]
    found = fingerprint(manifest_of(tmp_path, cases, ("T1", "T2")))
    assert set(found.intensities) == {"T1", "T2"}
    with pytest.raises(DataError, match="no cases"):
        fingerprint(manifest_of(tmp_path, []))
    with pytest.raises(DataError, match="None of 2 cases has an image"):
        fingerprint(manifest_of(tmp_path, cases, ("FLAIR",)))
    (tmp_path / "broken.nii").write_bytes(b"not an image")
    broken = Case(id="c", subject="c", images={"T1": ImageRef(files=("broken.nii",), sha256="0", kind="intensity")})
    with pytest.raises(DataError, match="cannot be read") as caught:
        fingerprint(manifest_of(tmp_path, [broken], ("T1",)))
    assert caught.value.where == "broken.nii"
    smaller = write(tmp_path, "small.nii", noise((5, 6, 6)))
    odd = Case(id="d", subject="d", images={"T1": first, "T2": smaller})
    with pytest.raises(DataError, match="'T2' does not have the same number of voxels"):
        fingerprint(manifest_of(tmp_path, [odd], ("T1", "T2")))


def test_a_constant_image_has_no_foreground_and_stops_nothing(tmp_path):
    images = [write(tmp_path, "even.nii", np.full((8, 8, 8), -5, np.float32)), write(tmp_path, "a.nii", noise((6, 7, 8)))]
    cases = [Case(id=str(place), subject="s", images={"image": image}) for place, image in enumerate(images)]
    found = fingerprint(manifest_of(tmp_path, cases))
    assert set(found.boxes) == {(8, 8, 8), (6, 7, 8)}, "the whole box where there is no foreground"
    assert found.intensities["image"].lower >= 10
    with pytest.raises(DataError, match="None of 1 cases has an image with foreground"):
        fingerprint(manifest_of(tmp_path, cases[:1]))


def test_it_does_not_depend_on_ids_or_on_a_secret(tmp_path, monkeypatch):
    cases = []
    for number in range(9):
        image = write(tmp_path, f"{number}.nii", noise((30, 31, 32 + number), seed=number))
        label = write(tmp_path, f"{number}_label.nii", np.ones((30, 31, 32 + number), np.uint8), kind="labels")
        cases.append(Case(id=f"{number}", subject=f"{number}", images={"image": image}, targets={"organ": label}))
    # the same image twice, with different label maps
    other = write(tmp_path, "other.nii", np.full((30, 31, 32), 2, np.uint8), kind="labels")
    cases.append(cases[0].model_copy(update={"id": "twin", "targets": {"organ": other}}))
    given = manifest_of(tmp_path, cases)
    monkeypatch.delenv("MEDAE_CASE_SALT", raising=False)
    hidden = [hash_ids(given)]
    for secret in ("a", "b"):
        monkeypatch.setenv("MEDAE_CASE_SALT", secret)
        hidden.append(hash_ids(given))
    orders = {tuple(case.images["image"].files for case in manifest.cases) for manifest in (given, *hidden)}
    assert len(orders) == 4, "or the test would show nothing"
    first = fingerprint(given, limit=5)
    assert len(first.shapes) == 5
    assert all(fingerprint(manifest, limit=5) == first for manifest in hidden)
