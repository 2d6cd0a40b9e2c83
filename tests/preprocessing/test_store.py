"""The store: what goes in comes out, damage is noticed, processes do not disturb each other, a full disk is said so."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import pickle
import resource
import shutil
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from medae.data.case import Case, ImageRef, Manifest
from medae.errors import DataError
from medae.plan import CTWindow, SpacePlan
from medae.preprocessing import entry as entry_module
from medae.preprocessing import store as store_module
from medae.preprocessing.entry import VOXELS, is_intact
from medae.preprocessing.prepare import prepare_case
from medae.preprocessing.store import Store, build_store

SPACE = SpacePlan(spacing=(1.0, 1.0, 2.0), intensity=CTWindow(mean=10, std=3), foreground="nonzero")


def make_manifest(root: Path, cases: int = 3, shape: tuple[int, int, int] = (9, 8, 7)) -> Manifest:
    root.mkdir(exist_ok=True)
    found = []
    for number in range(cases):
        random = np.random.default_rng(number)
        image = random.uniform(1, 50, shape).astype(np.float32)
        image[0] = 0
        labels = random.integers(0, 3, shape).astype(np.uint8)
        for name, array in (("image", image), ("label", labels)):
            nib.save(nib.Nifti1Image(array, np.diag([-1, -1, 1, 1.0])), root / f"{number}_{name}.nii.gz")
        refs = {
            name: ImageRef(files=(f"{number}_{name}.nii.gz",), sha256=f"{name}{number}", kind=kind)
            for name, kind in (("image", "intensity"), ("label", "labels"))
        }
        targets = {"label": refs["label"]} if number != 2 else {}
        found.append(Case(id=f"c{number}", subject=f"s{number // 2}", images={"image": refs["image"]}, targets=targets))
    return Manifest(source="folder", root=root, channels=("image",), cases=tuple(found))


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return make_manifest(tmp_path / "data")


def lost(manifest: Manifest, case: Case) -> dict[str, int]:
    """Labelled voxels where the image's first plane is background, which are cut off."""
    maps = {name: ref.files[0] for name, ref in case.targets.items() if isinstance(ref, ImageRef)}
    return {name: int((np.asarray(nib.load(manifest.root / file).dataobj)[0] > 0).sum()) for name, file in maps.items()}


def times(folder: Path) -> dict[str, int]:
    return {each.name: (each / "entry.json").stat().st_mtime_ns for each in folder.iterdir()}


def test_entries_are_the_prepared_cases(manifest: Manifest, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    store = build_store(manifest, SPACE, tmp_path / "store", ["label"], progress=lambda *done: seen.append(done))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert store.case_ids == ("c0", "c1", "c2")
    assert [store.subject(case) for case in store.case_ids] == ["s0", "s0", "s1"]
    assert len(store) == 3
    for case in manifest.cases:
        entry, expected = store[case.id], prepare_case(manifest, case, SPACE, ["label"])
        assert isinstance(entry.image, np.memmap)
        assert not entry.image.flags.writeable
        again = entry.prepared()
        assert torch.equal(again.image, expected.image)
        assert torch.equal(again.mask, expected.mask)
        assert torch.equal(again.present, expected.present)
        assert again.targets.keys() == expected.targets.keys() == ({"label"} if case.id != "c2" else set())
        assert all(torch.equal(again.targets[name], expected.targets[name]) for name in again.targets)
        assert again.native == expected.native
        assert again.beyond == entry.beyond == expected.beyond == lost(manifest, case)
        assert again.native.crop is not None
        np.testing.assert_array_equal(again.affine, expected.affine)
        assert entry.shape == expected.shape
        assert entry.spacing == expected.spacing
    with pytest.raises(KeyError):
        store["unknown"]


def test_foreground_voxels_lie_where_the_labels_are(manifest: Manifest, tmp_path: Path) -> None:
    entry = build_store(manifest, SPACE, tmp_path / "store", ["label"])["c0"]
    labels = np.array(entry.targets["label"][0])
    assert entry.foreground["label"].keys() == {1, 2}
    for label, voxels in entry.foreground["label"].items():
        assert voxels.dtype == np.int16
        np.testing.assert_array_equal(voxels, np.argwhere(labels == label))
    np.testing.assert_array_equal(entry.mask_voxels, np.argwhere(entry.mask[0]))


def test_large_regions_are_sampled_evenly_and_always_the_same(tmp_path: Path) -> None:
    manifest = make_manifest(tmp_path / "data", 1, (48, 40, 30))
    first = build_store(manifest, SPACE, tmp_path / "a", ["label"])["c0"]
    second = build_store(manifest, SPACE, tmp_path / "b", ["label"])["c0"]
    assert first.mask_voxels.shape == (VOXELS, 3)
    assert len(np.unique(first.mask_voxels, axis=0)) == VOXELS
    assert first.mask[0][tuple(first.mask_voxels.T.astype(int))].all()
    np.testing.assert_array_equal(first.mask_voxels, second.mask_voxels)
    middle = (np.array(first.shape) - 1) / 2
    np.testing.assert_allclose(first.mask_voxels.mean(axis=0), middle, atol=0.5)


def test_a_second_build_prepares_nothing(manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build_store(manifest, SPACE, tmp_path / "store", ["label"])
    before = times(tmp_path / "store")
    monkeypatch.setattr(store_module, "prepare_case", None)
    build_store(manifest, SPACE, tmp_path / "store", ["label"])
    assert times(tmp_path / "store") == before
    assert len(before) == 3


def test_contents_space_and_targets_decide_which_entry(manifest: Manifest, tmp_path: Path) -> None:
    folder = tmp_path / "store"
    build_store(manifest, SPACE, folder)
    assert len(list(folder.iterdir())) == 3
    build_store(manifest, SPACE.model_copy(update={"spacing": (1.0, 1.0, 1.0)}), folder)
    assert len(list(folder.iterdir())) == 6
    build_store(manifest, SPACE, folder, ["label"])
    assert len(list(folder.iterdir())) == 9
    case = manifest.cases[0]
    changed = case.model_copy(update={"images": {"image": case.images["image"].model_copy(update={"sha256": "new"})}})
    build_store(manifest.model_copy(update={"cases": (changed,)}), SPACE, folder)
    assert len(list(folder.iterdir())) == 10


def damage_flip(folder: Path) -> None:
    content = bytearray((folder / "image.npy").read_bytes())
    content[-40] ^= 1
    (folder / "image.npy").write_bytes(content)


def damage_cut(folder: Path) -> None:
    os.truncate(folder / "mask.npy", 100)


def damage_array(folder: Path) -> None:
    (folder / "target0.npy").unlink()


def damage_record(folder: Path) -> None:
    (folder / "entry.json").unlink()


def damage_json(folder: Path) -> None:
    (folder / "entry.json").write_text("[]")


def damage_half(folder: Path) -> None:
    (folder / "entry.json").write_text((folder / "entry.json").read_text()[:50])


DAMAGES = [damage_flip, damage_cut, damage_array, damage_record, damage_json, damage_half, shutil.rmtree]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_entries_are_made_again(manifest: Manifest, tmp_path: Path, damage) -> None:  # type: ignore[no-untyped-def]
    store = build_store(manifest, SPACE, tmp_path / "store", ["label"])
    expected = np.array(store["c1"].image)
    folder = tmp_path / "store" / store.keys["c1"][1]
    others = {name: when for name, when in times(tmp_path / "store").items() if name != folder.name}
    damage(folder)
    assert not is_intact(folder)
    if damage is not damage_flip:  # opening does not compare contents
        with pytest.raises(DataError, match="missing from the store or damaged") as caught:
            store["c1"]
        assert caught.value.where == "c1"
    store = build_store(manifest, SPACE, tmp_path / "store", ["label"])
    np.testing.assert_array_equal(store["c1"].image, expected)
    assert is_intact(folder)
    assert {name: when for name, when in times(tmp_path / "store").items() if name != folder.name} == others


def test_processes_make_the_same_store(manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "WORTH_A_PROCESS", 1)
    torch.set_num_threads(2)
    one = build_store(manifest, SPACE, tmp_path / "one", ["label"])
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
    three = build_store(manifest, SPACE, tmp_path / "three", ["label"], workers=2)
    assert one.keys == three.keys
    for case in one.case_ids:
        np.testing.assert_array_equal(one[case].image, three[case].image)
        np.testing.assert_array_equal(one[case].mask_voxels, three[case].mask_voxels)


def test_a_store_travels_to_another_process_as_a_small_thing(manifest: Manifest, tmp_path: Path) -> None:
    store = build_store(manifest, SPACE, tmp_path / "store", ["label"])
    packed = pickle.dumps(store)
    assert len(packed) < 5000
    again: Store = pickle.loads(packed)  # noqa: S301 (what a data loader's worker does)
    np.testing.assert_array_equal(again["c0"].image, store["c0"].image)


def _build(root: Path, folder: Path, barrier, results) -> None:  # type: ignore[no-untyped-def]
    torch.set_num_threads(1)
    manifest = make_manifest_of_existing(root)
    barrier.wait()
    store = build_store(manifest, SPACE, folder, ["label"])
    results.put([float(store[case].image.sum()) for case in store.case_ids])


def make_manifest_of_existing(root: Path) -> Manifest:
    return Manifest.model_validate_json((root / "manifest.json").read_text())


@pytest.mark.parametrize("damaged", [False, True])
def test_two_processes_build_one_store(manifest: Manifest, tmp_path: Path, damaged: bool) -> None:
    (manifest.root / "manifest.json").write_text(manifest.model_dump_json())
    expected = build_store(manifest, SPACE, tmp_path / "alone", ["label"])
    if damaged:
        shutil.copytree(tmp_path / "alone", tmp_path / "store")
        for folder in (tmp_path / "store").iterdir():
            damage_flip(folder)
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(2), context.SimpleQueue()
    processes = [
        context.Process(target=_build, args=(manifest.root, tmp_path / "store", barrier, results)) for _ in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    sums = [float(expected[case].image.sum()) for case in expected.case_ids]
    assert [results.get(), results.get()] == [sums, sums]
    assert sorted(each.name for each in (tmp_path / "store").iterdir()) == sorted(key for _, key in expected.keys.values())
    assert all(is_intact(each) for each in (tmp_path / "store").iterdir())


def test_a_race_for_one_entry_keeps_a_whole_one(manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process finishes the entry between our check and our renaming."""
    folder = tmp_path / "store"
    other = build_store(manifest, SPACE, tmp_path / "other", ["label"])
    real = Path.rename

    def late(path: Path, target: Path) -> Path:
        if path.name == "entry" and not target.exists():
            shutil.copytree(tmp_path / "other" / target.name, target)
        return real(path, target)

    monkeypatch.setattr(Path, "rename", late)
    store = build_store(manifest, SPACE, folder, ["label"])
    assert sorted(each.name for each in folder.iterdir()) == sorted(key for _, key in store.keys.values())
    np.testing.assert_array_equal(store["c0"].image, other["c0"].image)


def test_an_entry_that_another_process_just_finished_stays_in_its_place(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who reads it in that moment must find it."""
    build_store(manifest, SPACE, tmp_path / "other", ["label"])
    real = Path.rename
    moved: list[Path] = []

    def late(path: Path, target: Path) -> Path:
        place = tmp_path / "store" / (target if path.name == "entry" else path).name
        if not is_intact(place):
            shutil.rmtree(place)
            shutil.copytree(tmp_path / "other" / place.name, place)
        moved.append(path)
        return real(path, target)

    shutil.copytree(tmp_path / "other", tmp_path / "store")
    for folder in (tmp_path / "store").iterdir():
        damage_flip(folder)
    monkeypatch.setattr(Path, "rename", late)
    store = build_store(manifest, SPACE, tmp_path / "store", ["label"])
    assert {path.name for path in moved} == {"entry"}
    assert all(is_intact(tmp_path / "store" / key) for _, key in store.keys.values())


def test_remains_that_another_process_removes_first_are_no_fault(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.glob
    gone = tmp_path / "store" / ".new-gone"
    monkeypatch.setattr(Path, "glob", lambda path, pattern: [gone, *real(path, pattern)])
    assert len(build_store(manifest, SPACE, tmp_path / "store")) == 3


def test_a_scan_that_cannot_be_read_is_not_blamed_on_the_store(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_):  # type: ignore[no-untyped-def]
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(store_module, "prepare_case", broken)
    with pytest.raises(DataError, match=r"The case cannot be read: Input/output error") as caught:
        build_store(manifest, SPACE, tmp_path / "store")
    assert caught.value.where == "c0"
    assert "store" not in caught.value.what


def test_temporary_files_of_reading_lie_where_they_are_swept(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A converted DICOM volume of a killed process must not stay in the system's temporary folder for good."""
    places: list[Path] = []
    real = store_module.prepare_case
    before = tempfile.gettempdir()

    def noting(*arguments):  # type: ignore[no-untyped-def]
        with tempfile.TemporaryDirectory(prefix="medae-") as folder:
            places.append(Path(folder))
        return real(*arguments)

    monkeypatch.setattr(store_module, "prepare_case", noting)
    build_store(manifest, SPACE, tmp_path / "store")
    assert len(places) == 3
    assert all(place.relative_to(tmp_path / "store").parts[0].startswith(".new-") for place in places)
    assert tempfile.gettempdir() == before


def test_a_killed_process_leaves_no_entry_and_its_remains_are_removed(manifest: Manifest, tmp_path: Path) -> None:
    folder = tmp_path / "store"
    process = multiprocessing.get_context("fork").Process(target=_killed_while_writing, args=(manifest, folder))
    process.start()
    process.join(60)
    assert process.exitcode == -9
    assert [each.name[:5] for each in folder.iterdir()] == [".new-"]
    build_store(manifest, SPACE, folder)
    assert len(list(folder.glob(".new-*"))) == 1  # it may still belong to a running process
    long_ago = time.time() - store_module.ABANDONED - 10
    os.utime(next(folder.glob(".new-*")), (long_ago, long_ago))
    build_store(manifest, SPACE, folder)
    assert not list(folder.glob(".new-*"))
    assert len(list(folder.iterdir())) == 3


def _killed_while_writing(manifest: Manifest, folder: Path) -> None:
    real = entry_module._write_array

    def write_then_die(path: Path, array: np.ndarray) -> int:
        checksum = real(path, array)
        if path.name == "mask.npy":
            os.kill(os.getpid(), 9)
        return checksum

    entry_module._write_array = write_then_die
    build_store(manifest, SPACE, folder)


def test_a_full_disk_is_one_clear_error_and_what_is_done_is_kept(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "store"
    real = store_module.write_entry

    def full(path: Path, prepared, *more) -> None:  # type: ignore[no-untyped-def]
        real(path, prepared, *more)
        if prepared.case_id == "c1":
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store_module, "write_entry", full)
    with pytest.raises(DataError, match="disk is full") as caught:
        build_store(manifest, SPACE, folder)
    assert caught.value.remedy
    assert "Free space" in caught.value.remedy
    kept = times(folder)
    assert not list(folder.glob(".new-*"))
    assert kept
    monkeypatch.undo()
    build_store(manifest, SPACE, folder)
    assert len(times(folder)) == 3
    assert kept.items() <= times(folder).items()


def test_a_write_that_really_fails_is_a_clear_error(manifest: Manifest, tmp_path: Path) -> None:
    """The system refuses to write more than 1000 bytes into a file: NumPy's own writing would hide why."""
    results = multiprocessing.get_context("fork").SimpleQueue()
    process = multiprocessing.get_context("fork").Process(
        target=_with_small_files, args=(manifest, tmp_path / "store", results)
    )
    process.start()
    message = results.get()
    process.join(60)
    assert "File too large" in message
    assert "Free space" in message
    assert list((tmp_path / "store").iterdir()) == []


def _with_small_files(manifest: Manifest, folder: Path, results) -> None:  # type: ignore[no-untyped-def]
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    try:
        build_store(manifest, SPACE, folder)
    except DataError as error:
        results.put(str(error))


def test_a_folder_that_cannot_be_made_is_named(manifest: Manifest, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        build_store(manifest, SPACE, tmp_path / "file" / "store")


@pytest.mark.parametrize("workers", [1, 2])
def test_one_bad_case_ends_the_build_with_its_file(
    manifest: Manifest, tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "WORTH_A_PROCESS", 1)
    path = manifest.root / "1_image.nii.gz"
    path.write_bytes(path.read_bytes()[:-200])  # its header is whole, so that it is found while preparing
    with pytest.raises(DataError, match="cannot be read") as caught:
        build_store(manifest, SPACE, tmp_path / "store", workers=workers)
    assert caught.value.where == "1_image.nii.gz"
    assert not list((tmp_path / "store").glob(".new-*"))


def test_what_a_case_is_called_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same files under another id and subject, and beside a channel that the plan leaves out, are one entry."""
    manifest = make_manifest(tmp_path / "data", 1, (48, 40, 30))
    case = manifest.cases[0]
    first = build_store(manifest, SPACE, tmp_path / "store", ["label"])
    more = case.images | {"other": case.images["image"].model_copy(update={"sha256": "other"})}
    renamed = case.model_copy(update={"id": "x", "subject": "y", "images": more})
    other = manifest.model_copy(update={"cases": (renamed, case)})
    assert build_store(other, SPACE, tmp_path / "fresh", ["label"]).keys["x"][1] == first.keys["c0"][1]
    assert len(list((tmp_path / "fresh").iterdir())) == 1
    monkeypatch.setattr(store_module, "prepare_case", None)
    second = build_store(other, SPACE, tmp_path / "store", ["label"])
    assert second["x"].case_id == "x"
    assert second["x"].subject == "y"
    for store in (second, build_store(other, SPACE, tmp_path / "fresh", ["label"])):
        np.testing.assert_array_equal(store["x"].mask_voxels, first["c0"].mask_voxels)


def test_a_process_that_dies_is_one_plain_error_and_a_second_build_is_whole(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the system kills a worker for its memory, in the middle of writing."""
    monkeypatch.setattr(store_module, "WORTH_A_PROCESS", 1)

    class Killed:  # within the test, so that it travels to the worker by value
        name = "killed"

        def __call__(self, image_CIJK, affine):  # type: ignore[no-untyped-def]
            import os
            import signal

            os.kill(os.getpid(), signal.SIGKILL)

    brains = SPACE.model_copy(update={"foreground": "brain"})
    with pytest.raises(DataError, match="One of 2 processes that read scans died") as caught:
        build_store(manifest, brains, tmp_path / "store", workers=2, brain=Killed())
    assert "--workers 1" in (caught.value.remedy or "")
    assert list((tmp_path / "store").iterdir()) == []
    store = build_store(manifest, SPACE, tmp_path / "store")
    assert all(is_intact(tmp_path / "store" / key) for _, key in store.keys.values())


def test_entries_hold_no_path_and_no_pickle(manifest: Manifest, tmp_path: Path) -> None:
    store = build_store(manifest, SPACE, tmp_path / "store", ["label"])
    folder = tmp_path / "store" / store.keys["c0"][1]
    record = (folder / "entry.json").read_text()
    assert str(tmp_path) not in record
    for name in json.loads(record)["checksums"]:
        np.load(folder / f"{name}.npy", allow_pickle=False)
