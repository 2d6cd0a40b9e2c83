"""Deformed cases: which takes whose shape, what is kept of them, and that nothing is made twice."""

from __future__ import annotations

import weakref
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from medae.data.case import Case, ImageRef, Manifest
from medae.errors import DataError
from medae.plan import CTWindow, SpacePlan
from medae.preprocessing import deformed as module
from medae.preprocessing import estimate
from medae.preprocessing.deformed import Pair, RegistrationConfig, alike, build_deformed, pairs_of
from medae.preprocessing.store import Store, build_store

CHANNELS = ("t1", "t2")
AS_IS = CTWindow(lower=-1e6, upper=1e6, mean=0.0, std=1.0)
SPACE = SpacePlan(spacing=(1.0, 1.0, 1.0), channels=CHANNELS, intensity=AS_IS, foreground="all")
SIZES = {"a": (16, 14, 12), "b": (18, 14, 13), "c": (15, 15, 12), "d": (16, 16, 14), "thin": (16, 14, 5)}


def stores(root: Path, present: dict[str, tuple[str, ...]] | None = None) -> tuple[Store, Store]:
    """Two stores in one folder, with and without label maps, of cubes of several sizes. present: channels by case."""
    cases = []
    for place, (name, shape) in enumerate(SIZES.items()):
        label = np.zeros(shape, np.uint8)
        label[4 : 10 + place % 3, 4:10, 2 : min(9, shape[2] - 1)] = 1
        label[6:8, 6:8, 3] = 2
        image = ndimage.gaussian_filter(label * 10.0, 0.7) + np.random.default_rng(place).normal(0, 0.2, shape)
        refs = {}
        for kind, array in (*((each, image) for each in (present or {}).get(name, CHANNELS)), ("label", label)):
            nib.save(nib.Nifti1Image(array.astype(np.float32), np.eye(4)), root / f"{name}_{kind}.nii")
            form = "labels" if kind == "label" else "intensity"
            refs[kind] = ImageRef(files=(f"{name}_{kind}.nii",), sha256=f"{kind} of {name}", kind=form)
        targets = {"label": refs.pop("label")}
        cases.append(Case(id=name, subject=f"subject {name}", images=refs, targets=targets))
    manifest = Manifest(source="test", root=root, channels=CHANNELS, cases=tuple(cases))
    labelled = manifest.model_copy(update={"cases": manifest.cases[:2]})
    return build_store(labelled, SPACE, root / "store", ["label"]), build_store(manifest, SPACE, root / "store")


@pytest.fixture(scope="module")
def opened(tmp_path_factory) -> tuple[Store, Store]:
    return stores(tmp_path_factory.mktemp("scans"))


def test_choosing_pairs_holds_no_file_open(opened, monkeypatch):
    """An entry holds several, of which a process may have a thousand."""
    there: list[weakref.ref] = []
    real = Store.__getitem__

    def opening(store: Store, case: str):
        alive = [each for each in there if each() is not None]
        assert len(alive) <= 2
        found = real(store, case)
        there.append(weakref.ref(found))
        return found

    monkeypatch.setattr(Store, "__getitem__", opening)
    assert len(pairs_of(*opened)) == 4 and len(there) == 7


def test_what_itk_says_becomes_a_sentence_with_the_pair(tmp_path, monkeypatch):
    labelled, shapes = stores(tmp_path)

    def failing(*given):
        raise RuntimeError("Exception thrown in SimpleITK\nitk::ERROR: Failed to allocate memory for image.")

    monkeypatch.setattr(module, "register", failing)
    with pytest.raises(DataError, match=r"Failed to allocate memory(.|\n)*b as a(.|\n)*registration\.spacing"):
        build_deformed(labelled, shapes, pairs_of(labelled, shapes), RegistrationConfig())


def folders(store: Store) -> dict[str, int]:
    return {key: (store.folder / key / "entry.json").stat().st_mtime_ns for _, key in store.keys.values()}


def test_each_shape_is_taken_by_a_labelled_case_in_turn_but_not_by_its_own(opened):
    labelled, shapes = opened
    assert pairs_of(labelled, shapes) == [Pair("b", "a"), Pair("a", "b"), Pair("a", "c"), Pair("b", "d")]


def test_a_scan_without_a_channel_in_common_lends_no_shape(tmp_path):
    labelled, shapes = stores(tmp_path, {"a": ("t1",), "b": ("t2",), "c": ("t1",)})
    pairs = pairs_of(labelled, shapes)
    assert pairs == [Pair("a", "c"), Pair("b", "d")], "a has no channel that b has; d has both"
    made = build_deformed(labelled, shapes, pairs, RegistrationConfig())
    assert [made[pair.case_id].present.tolist() for pair in pairs] == [[True, False], [False, True]]
    assert alike(made["b as d"], shapes["d"]) > 0.9, "by the channel that both have"


def test_deformed_cases_have_the_labels_and_the_subject_of_the_one_and_the_grid_of_the_other(opened):
    labelled, shapes = opened
    pairs = pairs_of(labelled, shapes)
    made = build_deformed(labelled, shapes, pairs, RegistrationConfig())
    for pair in pairs:
        entry = made[pair.case_id]
        assert entry.shape == SIZES[pair.fixed] and entry.subject == f"subject {pair.moving}"
        assert set(entry.foreground["label"]) == {1, 2} and entry.case_id == f"{pair.moving} as {pair.fixed}"
        assert alike(entry, shapes[pair.fixed]) > 0.9
        size = (shapes[pair.fixed].image[0] > 5).sum()
        assert (entry.targets["label"] > 0).sum() == pytest.approx(size, rel=0.25), "of the shape that was taken"


def test_nothing_is_made_twice_and_what_is_damaged_is_made_again(tmp_path):
    labelled, shapes = stores(tmp_path)
    pairs = pairs_of(labelled, shapes)
    seen: list[tuple[int, int]] = []
    first = build_deformed(labelled, shapes, pairs, RegistrationConfig(), progress=lambda *now: seen.append(now))
    assert seen == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]
    made = folders(first)
    drawn_otherwise = RegistrationConfig(share=0.9, scans=3)
    assert folders(build_deformed(labelled, shapes, pairs, drawn_otherwise)) == made, "how they are drawn changes none"
    (first.folder / first.keys["a as b"][1] / "image.npy").write_bytes(b"")
    again = folders(build_deformed(labelled, shapes, pairs, RegistrationConfig()))
    assert [key for key in made if again[key] != made[key]] == [first.keys["a as b"][1]]
    other = build_deformed(labelled, shapes, pairs[:1], RegistrationConfig(smooth=2.0))
    assert other.keys["b as a"] != first.keys["b as a"]


def test_processes_make_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "WORTH_A_PROCESS", 1)
    labelled, shapes = stores(tmp_path)
    pairs = pairs_of(labelled, shapes)[:2]
    alone = build_deformed(labelled, shapes, pairs, RegistrationConfig())
    kept = {pair: {name: np.array(each) for name, each in arrays(alone, pair).items()} for pair in pairs}
    for _, key in alone.keys.values():
        (alone.folder / key / "entry.json").unlink()
    helped = build_deformed(labelled, shapes, pairs, RegistrationConfig(), workers=2)
    for pair in pairs:
        assert all(np.array_equal(each, kept[pair][name]) for name, each in arrays(helped, pair).items())


def arrays(store: Store, pair: Pair) -> dict[str, np.ndarray]:
    entry = store[pair.case_id]
    return {"image": entry.image, "mask": entry.mask, "label": entry.targets["label"], "voxels": entry.mask_voxels}


def test_a_failure_names_the_pair_and_what_is_done_stays(tmp_path, monkeypatch):
    labelled, shapes = stores(tmp_path)
    pairs = pairs_of(labelled, shapes)
    real, calls = module.register, []

    def failing(*given):
        calls.append(1)
        if len(calls) == 3:
            raise DataError("It cannot be registered.")
        return real(*given)

    monkeypatch.setattr(module, "register", failing)
    with pytest.raises(DataError, match=r"cannot be registered.*\n.*a as c"):
        build_deformed(labelled, shapes, pairs, RegistrationConfig())
    build_deformed(labelled, shapes, pairs, RegistrationConfig())
    assert len(calls) == 5, "two were done, the third failed, two were left"
    assert not list(labelled.folder.glob(".new-*"))


def test_what_another_process_makes_in_the_meantime_is_not_made_again(tmp_path, monkeypatch):
    labelled, shapes = stores(tmp_path)
    pairs = pairs_of(labelled, shapes)
    real, made = module.register, []

    def registering(*given):
        made.append(1)
        if len(made) == 1:  # while the first is registered, another one does them all
            build_deformed(labelled, shapes, pairs, RegistrationConfig())
        return real(*given)

    monkeypatch.setattr(module, "register", registering)
    build_deformed(labelled, shapes, pairs, RegistrationConfig())
    assert len(made) == 1 + len(pairs)


def test_a_disk_that_is_too_small_is_said_before_the_work(tmp_path, monkeypatch):
    labelled, shapes = stores(tmp_path)
    monkeypatch.setattr(estimate, "free_bytes", lambda folder: 1000)
    monkeypatch.setattr(module, "register", lambda *given: pytest.fail("nothing is registered"))
    with pytest.raises(DataError, match=r"4 deformed cases(.|\n)*registration\.scans"):
        build_deformed(labelled, shapes, pairs_of(labelled, shapes), RegistrationConfig())
