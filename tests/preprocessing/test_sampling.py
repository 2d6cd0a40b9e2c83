import ctypes
import hashlib
import mmap
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medae.data.case import Case, ImageRef, Manifest
from medae.errors import ConfigError, DataError, TrainingError
from medae.plan import CTWindow, SpacePlan
from medae.preprocessing.batch import Batch
from medae.preprocessing.sampling import PatchSampler, SamplerConfig
from medae.preprocessing.store import Store, build_store

AS_IS = CTWindow(lower=-1e6, upper=1e6, mean=0.0, std=1.0)
SPACE = SpacePlan(spacing=(1.0, 1.0, 1.0), intensity=AS_IS, foreground="all")
SLICES = SPACE.model_copy(update={"spatial_dims": 2, "slice_axis": 2})


def coded(shape: tuple[int, int, int]) -> np.ndarray:
    """Voxel (i, j, k) has the value 1 + 10000 i + 100 j + k: a patch tells where it was cut."""
    i, j, k = np.meshgrid(*map(np.arange, shape), indexing="ij")
    return (1 + 10000 * i + 100 * j + k).astype(np.float32)


def places(values: torch.Tensor) -> torch.Tensor:
    code = values.long() - 1
    return torch.stack([code // 10000, code // 100 % 100, code % 100], dim=-1)


def write(root: Path, name: str, array: np.ndarray) -> ImageRef:
    nib.save(nib.Nifti1Image(array, np.eye(4)), root / name)
    return ImageRef(files=(name,), sha256=hashlib.sha256(array.tobytes()).hexdigest(), kind="intensity")


def store_of(root: Path, scans: dict[str, tuple[np.ndarray, np.ndarray]], space: SpacePlan = SPACE) -> Store:
    """A real store of real files; scans: image and label map by case id."""
    cases = []
    for name, (image, label) in scans.items():
        ref = write(root, f"{name}.nii", image)
        target = write(root, f"{name}_label.nii", label).model_copy(update={"kind": "labels"})
        cases.append(Case(id=name, subject=name, images={"image": ref}, targets={"label": target}))
    manifest = Manifest(source="test", root=root, channels=("image",), cases=tuple(cases))
    return build_store(manifest, space, root / "store", ["label"])


@pytest.fixture(scope="module")
def scans() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    result = {}
    for number, shape in enumerate([(20, 18, 12), (16, 22, 9), (24, 10, 14), (9, 9, 9), (17, 17, 5)]):
        label = np.zeros(shape, np.uint8)
        label[3:5, 3:5, 2] = 1
        label[7, 2, 3] = 4
        result[f"case{number}"] = (coded(shape), label)
    return result


@pytest.fixture(scope="module")
def store(tmp_path_factory, scans) -> Store:
    return store_of(tmp_path_factory.mktemp("scans"), scans)


def sampler(
    store: Store,
    *,
    space: SpacePlan = SPACE,
    patch=(8, 8, 4),
    batch=4,
    seed=0,
    target=None,
    exclude=None,
    margin=None,
    **more,
):
    config = SamplerConfig(patch=patch, batch=batch, **more)
    return PatchSampler(store, store.case_ids, space, config, seed, target=target, exclude_target=exclude, margin=margin)


def equal(first: Batch, second: Batch) -> bool:
    return (
        torch.equal(first.image, second.image)
        and torch.equal(first.mask, second.mask)
        and torch.equal(first.present, second.present)
        and first.keys == second.keys
        and first.target.keys() == second.target.keys()
        and all(torch.equal(first.target[name], second.target[name]) for name in first.target)
    )


@pytest.mark.parametrize(("space", "patch"), [(SPACE, (8, 8, 4)), (SLICES, (8, 8))])
def test_batches_do_not_depend_on_workers(store, space, patch):
    drawn = sampler(store, space=space, patch=patch, target="label")
    alone = list(drawn.batches(3, 9))
    state = torch.get_rng_state()
    helped = list(drawn.batches(3, 9, workers=2))
    assert torch.equal(torch.get_rng_state(), state)
    assert len(alone) == len(helped) == 6
    assert all(equal(first, second) for first, second in zip(alone, helped, strict=True))
    assert not equal(alone[0], alone[1])


def test_two_processes_of_two_see_the_batch_of_one_process_of_four(store):
    drawn = sampler(store, target="label")
    for step, whole in enumerate(drawn.batches(0, 5)):
        halves = [next(drawn.batches(step, step + 1, process=process, processes=2)) for process in (0, 1)]
        assert torch.equal(torch.cat([half.image for half in halves]), whole.image)
        assert torch.equal(torch.cat([half.target["label"] for half in halves]), whole.target["label"])
        assert halves[0].keys + halves[1].keys == whole.keys


def test_a_step_does_not_depend_on_what_ran_before_but_on_the_seed(store):
    first, second = sampler(store), sampler(store)
    list(first.batches(0, 5))
    assert equal(first.batch(7), second.batch(7))
    assert not equal(first.batch(7), sampler(store, seed=1).batch(7))


def test_shapes_and_types(store):
    batch = sampler(store, target="label").batch(0)
    assert batch.image.shape == (4, 1, 8, 8, 4) and batch.image.dtype == torch.float32
    assert batch.mask.shape == (4, 1, 8, 8, 4) and batch.mask.dtype == torch.bool
    assert batch.target["label"].shape == (4, 1, 8, 8, 4) and batch.target["label"].dtype == torch.int64
    assert batch.present.tolist() == [[True]] * 4
    assert len(batch.keys) == 4
    assert sampler(store).batch(0).target == {}


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_are_cut_across_the_slice_axis(store, scans, axis):
    space = SPACE.model_copy(update={"spatial_dims": 2, "slice_axis": axis})
    for batch in sampler(store, space=space, patch=(30, 30), target="label").batches(0, 5):
        assert batch.image.shape == (4, 1, 30, 30)
        for b, key in enumerate(batch.keys):
            found = places(batch.image[b, 0][batch.mask[b, 0]])
            assert len(found[:, axis].unique()) == 1
            shape = [extent for other, extent in enumerate(scans[key][0].shape) if other != axis]
            assert batch.mask[b].sum() == np.prod(shape)


@settings(max_examples=60, deadline=None)
@given(patch=st.tuples(*[st.integers(1, 30)] * 3), step=st.integers(0, 1000), within=st.sampled_from(["mask", "image"]))
def test_patches_are_pieces_of_their_images_with_centred_padding(store, scans, patch, step, within):
    batch = sampler(store, patch=patch, batch=2, target="label", within=within).batch(step)
    for b, key in enumerate(batch.keys):
        image, label = scans[key]
        inner = []
        for size, extent in zip(patch, image.shape, strict=True):
            before = max(size - extent, 0) // 2
            inner.append(slice(before, before + min(size, extent)))
        expected_mask = torch.zeros(patch, dtype=torch.bool)
        expected_mask[tuple(inner)] = True
        assert torch.equal(batch.mask[b, 0], expected_mask)
        assert (batch.image[b, 0][~expected_mask] == 0).all()
        corner = places(batch.image[b, 0][tuple(inner)][0, 0, 0])
        box = tuple(slice(int(a), int(a) + part.stop - part.start) for a, part in zip(corner, inner, strict=True))
        assert np.array_equal(batch.image[b, 0][tuple(inner)].numpy(), image[box])
        assert np.array_equal(batch.target["label"][b, 0][tuple(inner)].numpy(), label[box])


def centre(patch: torch.Tensor) -> torch.Tensor:
    return patch[(slice(None), *(size // 2 for size in patch.shape[1:]))]


def test_share_of_patches_centred_on_labels_and_labels_equally_often(tmp_path):
    label = np.zeros((40, 40, 40), np.uint8)
    label[10:20, 10:20, 10:20] = 1
    label[30, 30, 30] = 2
    drawn = sampler(
        store_of(tmp_path, {"one": (coded(label.shape), label)}), patch=(4, 4, 4), target="label", foreground=0.5
    )
    found = Counter(int(value) for batch in drawn.batches(0, 100) for value in centre(batch.target["label"].squeeze(1)))
    # half of 400 are centred on a label, each label equally often; by chance 1.6 % of the others are too
    assert 80 <= found[2] <= 120
    assert 80 <= found[1] <= 125
    none = sampler(drawn.store, patch=(4, 4, 4), target="label", foreground=0.0)
    found = Counter(int(value) for batch in none.batches(0, 100) for value in centre(batch.target["label"].squeeze(1)))
    assert found[2] <= 2


def test_other_patches_are_centred_in_the_mask_or_lie_anywhere(tmp_path):
    image = np.zeros((30, 30, 30), np.float32)
    image[0, 0, 0] = image[29, 29, 29] = 1  # keeps the box of the foreground as large as the image
    image[12:18, 12:18, 12:18] = 5
    space = SPACE.model_copy(update={"foreground": "nonzero"})
    store = store_of(tmp_path, {"one": (image, (image > 1).astype(np.uint8))}, space)
    inside = sampler(store, space=space, patch=(3, 3, 3), batch=50).batch(0)
    assert centre(inside.mask.squeeze(1)).float().mean() > 0.9
    anywhere = sampler(store, space=space, patch=(3, 3, 3), batch=200, within="image").batch(0)
    assert centre(anywhere.mask.squeeze(1)).float().mean() < 0.1


def test_anywhere_means_every_position_equally_often(tmp_path):
    image = coded((6, 3, 3))
    store = store_of(tmp_path, {"one": (image, np.zeros(image.shape, np.uint8))})
    drawn = sampler(store, patch=(3, 3, 3), batch=400, within="image").batch(0)
    first = Counter(places(drawn.image[:, 0, 0, 0, 0])[:, 0].tolist())
    assert set(first) == {0, 1, 2, 3}
    assert all(70 <= count <= 130 for count in first.values())


def test_cases_come_in_shuffled_passes(store):
    drawn = sampler(store, batch=5)
    passes = [batch.keys for batch in drawn.batches(0, 20)]
    assert all(sorted(keys) == sorted(store.case_ids) for keys in passes)
    assert len(set(passes)) > 10


def test_slices_with_the_excluded_target_and_empty_slices_are_never_drawn(tmp_path):
    image = np.zeros((20, 20, 10), np.float32)
    image[5:15, 5:15, 2:9] = coded((20, 20, 10))[5:15, 5:15, 2:9]
    image[0, 0, 0] = image[-1, -1, -1] = 1  # a single voxel in the first and last slice
    label = np.zeros((20, 20, 10), np.uint8)
    label[7, 7, 4:6] = 1
    space = SLICES.model_copy(update={"foreground": "nonzero"})
    everywhere = np.ones((20, 20, 10), np.uint8)
    store = store_of(tmp_path, {"some": (image, label), "all": (image, everywhere)}, space)
    drawn = sampler(store, space=space, patch=(20, 20), batch=40, exclude="label", target="label")
    assert drawn.case_ids == ("some",)
    assert drawn.left_out == ("all",)
    batch = drawn.batch(0)
    numbers = places(batch.image[:, 0, 10, 10])[:, 2]
    assert set(numbers.tolist()) == {2, 3, 6, 7, 8}
    assert (batch.target["label"] == 0).all()


def test_labelled_slices_are_drawn_by_their_share(tmp_path):
    label = np.zeros((12, 12, 40), np.uint8)
    label[5, 5, 7] = 1
    store = store_of(tmp_path, {"one": (coded(label.shape), label)}, SLICES)
    drawn = sampler(store, space=SLICES, patch=(6, 6), batch=200, target="label", foreground=0.6).batch(0)
    labelled = drawn.target["label"].flatten(1).amax(1) > 0
    assert 0.5 < labelled.float().mean() < 0.7
    assert (drawn.target["label"][labelled][:, 0, 3, 3] == 1).float().mean() > 0.9


def test_only_the_needed_part_of_the_files_is_read(store, monkeypatch):
    read = []

    class Recorded(np.ndarray):
        def __getitem__(self, key):
            piece = super().__getitem__(key)
            read.append(piece.size)
            return piece

    drawn = sampler(store, patch=(4, 4, 4), batch=1)
    cut = drawn._cut
    monkeypatch.setattr(drawn, "_cut", lambda array, *how: cut(array.view(Recorded), *how))
    drawn.batch(0)
    assert read == [64, 64]


@pytest.mark.parametrize(
    ("slice_axis", "patch", "most"), [(None, (32, 32, 32), 0.12), (2, (64, 64), 0.05), (0, (48, 64), 0.05)]
)
def test_only_the_needed_pages_come_from_the_disk(tmp_path, slice_axis, patch, most):
    """Counted by the kernel: the pages of the image's file that are in memory after a patch was drawn from a cold one."""
    shape = (160, 160, 96)
    image = np.random.default_rng(0).normal(0, 1, shape).astype(np.float32)
    space = SPACE.model_copy(update={"slice_axis": slice_axis, "spatial_dims": 3 if slice_axis is None else 2})
    store = store_of(tmp_path, {"a": (image, np.zeros(shape, dtype=np.uint8))}, space)
    drawn = sampler(store, space=space, patch=patch, batch=1, within="image")
    path = store.folder / store.keys["a"][1] / "image.npy"
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if resident(path) > 0.01:
        pytest.skip("the file system keeps its files in memory")
    drawn.batch(0)
    assert 0 < resident(path) < most


def resident(path: Path) -> float:
    """Share of a file's pages that are in memory, by mincore(2)."""
    libc = ctypes.CDLL(None, use_errno=True)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ) as mapped:
        mapped.madvise(mmap.MADV_RANDOM)
        pages = -(-len(mapped) // mmap.PAGESIZE)
        start = np.frombuffer(mapped, dtype=np.uint8).__array_interface__["data"][0]
        found = (ctypes.c_ubyte * pages)()
        if libc.mincore(ctypes.c_void_p(start), ctypes.c_size_t(len(mapped)), found):
            raise OSError(ctypes.get_errno(), "mincore")
        return float(np.mean(np.frombuffer(found, dtype=np.uint8) & 1))


def test_errors_name_what_is_wrong(store, tmp_path):
    with pytest.raises(ConfigError, match="does not fit 3 spatial dimensions"):
        sampler(store, patch=(8, 8))
    with pytest.raises(ConfigError, match="not made of slices"):
        sampler(store, exclude="label")
    with pytest.raises(DataError, match="no target 'tumour'"):
        sampler(store, target="tumour")
    with pytest.raises(ConfigError, match="cannot be shared evenly by 3"):
        sampler(store).batch(0, processes=3)
    with pytest.raises(DataError, match="no cases"):
        PatchSampler(store, [], SPACE, SamplerConfig(patch=(4, 4, 4)), 0)
    lesions = store_of(tmp_path, {"one": (coded((4, 4, 2)), np.ones((4, 4, 2), np.uint8))}, SLICES)
    with pytest.raises(DataError, match="None of 1 cases has a slice"):
        sampler(lesions, space=SLICES, patch=(4, 4), exclude="label")


def test_a_users_error_in_a_worker_arrives_as_it_is(tmp_path, scans):
    store = store_of(tmp_path, scans)
    drawn = sampler(store)
    for file in (tmp_path / "store").glob("*/image.npy"):
        file.unlink()
    with pytest.raises(DataError, match="A prepared case is missing") as caught:
        list(drawn.batches(0, 4, workers=1))
    assert "Traceback" not in str(caught.value)
    assert caught.value.where in store.case_ids


def test_a_dying_worker_is_one_plain_message(store, monkeypatch):
    drawn = sampler(store)
    monkeypatch.setattr(drawn, "_sample", lambda step, place: os._exit(1))
    with pytest.raises(TrainingError, match="loads patches died at step 2"):
        list(drawn.batches(2, 4, workers=1))


def test_stores_of_one_slice_and_one_voxel_work(tmp_path):
    shapes = [(5, 6, 1), (1, 1, 1)]
    store = store_of(tmp_path, {f"c{n}": (coded(shape), np.ones(shape, np.uint8)) for n, shape in enumerate(shapes)})
    for space in (SPACE, SLICES):
        size = (4,) * space.spatial_dims
        batch = sampler(store, space=space, patch=size, batch=8, target="label").batch(0)
        assert batch.image.shape == (8, 1, *size)
        assert torch.equal(batch.image != 0, batch.mask)


@pytest.mark.parametrize(("space", "patch", "margin"), [(SPACE, (8, 8, 4), (3, 0, 2)), (SLICES, (8, 6), (2, 3))])
def test_a_margin_shows_the_scan_around_the_same_patches(store, scans, space, patch, margin):
    plain = sampler(store, space=space, patch=patch, target="label")
    wider = sampler(store, space=space, patch=patch, target="label", margin=margin)
    middle = (..., *(slice(more, more + size) for size, more in zip(patch, margin, strict=True)))
    beyond = 0
    for step in range(10):
        batch, wide = plain.batch(step), wider.batch(step)
        assert wide.image.shape[2:] == tuple(size + 2 * more for size, more in zip(patch, margin, strict=True))
        inner = Batch(
            wide.image[middle], wide.present, wide.mask[middle], {"label": wide.target["label"][middle]}, wide.keys
        )
        assert equal(inner, batch)
        for image, mask in zip(wide.image[:, 0], wide.mask[:, 0], strict=True):
            assert (image[~mask] == 0).all()
            across = places(image)
            step_along = across[1:][mask[1:] & mask[:-1]] - across[:-1][mask[1:] & mask[:-1]]
            assert (step_along == torch.tensor([1, 0, 0])).all()
        beyond += int(wide.mask.sum() - batch.mask.sum())
    assert beyond > 0


# --- several slices at a time ---


@pytest.mark.parametrize("axis", [0, 2])
def test_neighbours_of_a_slice_are_further_channels_and_the_slice_is_what_it_was(store, axis):
    one = SPACE.model_copy(update={"spatial_dims": 2, "slice_axis": axis})
    plain = sampler(store, space=one, patch=(8, 8), batch=12, target="label", margin=(1, 2))
    seen = sampler(store, space=one.model_copy(update={"slices": 5}), patch=(8, 8), batch=12, target="label", margin=(1, 2))
    below, above = 0, 0
    for step in range(3):
        alone, batch = plain.batch(step), seen.batch(step)
        assert batch.slices == 5 and batch.image.shape == (12, 5, 10, 12)
        assert equal(alone, replace(batch, image=batch.centre)), "the same places, masks and label maps"
        for sample, mask, name in zip(batch.image, batch.mask, batch.keys, strict=True):
            own = places(sample[2][mask[0]])
            for number, offset in enumerate((-2, -1, 0, 1, 2)):
                there = own[0, axis] + offset
                values = sample[number][mask[0]]
                if 0 <= there < store[name].shape[axis]:
                    moved = own.clone()
                    moved[:, axis] += offset
                    assert torch.equal(places(values), moved)
                else:
                    below, above = below + (there < 0), above + (there >= 0)
                    assert not values.any(), "there is nothing beyond the ends"
    assert below and above, "both ends were drawn"


def test_slices_that_see_an_excluded_one_are_left_out_too(store):
    space = SLICES.model_copy(update={"slices": 3})
    drawn = sampler(store, space=space, patch=(8, 8), batch=30, exclude="label", slice_foreground=0.0)
    numbers = {int(places(sample[1].max())[2]) for step in range(6) for sample in drawn.batch(step).image}
    assert numbers and not numbers & {1, 2, 3, 4}, "labels are in the slices 2 and 3"


@pytest.mark.parametrize("share", [0.5, 0.25, 0.9, 1 / 3])
def test_a_share_of_the_samples_is_drawn_from_the_cases_beside(store, share):
    """Evenly over the samples; and each group in passes of its own, so that within it every case is seen equally often."""
    own, beside = store.case_ids[:2], store.case_ids[2:]
    config = SamplerConfig(patch=(8, 8, 4), batch=4)
    drawn = PatchSampler(store, own, SPACE, config, 0, target="label", beside=beside, share=share)
    keys = [key for batch in drawn.batches(0, 90) for key in batch.keys]
    from_beside = np.array([key in beside for key in keys])
    assert np.abs(np.cumsum(from_beside) - share * np.arange(1, len(keys) + 1)).max() <= 1
    for group in (own, beside):
        counts = Counter(key for key in keys if key in group)
        assert set(counts) == set(group) and max(counts.values()) - min(counts.values()) <= 1
    halves = [drawn.batch(7, process, 2).keys for process in (0, 1)]
    assert halves[0] + halves[1] == drawn.batch(7).keys
    assert drawn.case_ids == own, "the cases beside are not among the training cases"


def test_the_own_cases_come_in_the_order_that_they_have_alone(store):
    own, beside = store.case_ids[:3], store.case_ids[3:]
    config = SamplerConfig(patch=(8, 8, 4), batch=4)
    alone = PatchSampler(store, own, SPACE, config, 5)
    mixed = PatchSampler(store, own, SPACE, config, 5, beside=beside, share=0.5)
    keys = [key for batch in mixed.batches(0, 12) for key in batch.keys if key in own]
    assert keys == [key for batch in alone.batches(0, 6) for key in batch.keys]
    without = PatchSampler(store, own, SPACE, config, 5, beside=(), share=0.5)
    assert all(equal(a, b) for a, b in zip(without.batches(0, 4), alone.batches(0, 4), strict=True))
