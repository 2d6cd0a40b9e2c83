"""The brain mask network that travels in the package: heads of any contrast, and where it says no."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from medae.artifact import load_artifact
from medae.data.bids import BIDSSource
from medae.data.reading import read_array
from medae.data.split import SplitConfig, split_subjects
from medae.errors import ArtifactError, DataError
from medae.inference import brainmask
from medae.inference.brainmask import SHIPPED, MaskNetwork, extraction_of
from medae.plan import SpacePlan
from medae.preprocessing.brain import DeepBet
from medae.seeding import numpy_generator
from medae.synthesis.brain import load_template, make_phantom
from medae.synthesis.head import RenderConfig, classify, render_head

MEGABYTES = 2.0


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b)))


def found(image: np.ndarray, affine: np.ndarray) -> np.ndarray:
    return MaskNetwork()(torch.from_numpy(np.asarray(image, dtype=np.float32))[None], affine).mask[0].numpy()


@pytest.fixture(scope="module")
def phantom():
    return make_phantom(load_template(3.0), 3.0, None, 0, 1)


def test_the_network_is_small_and_its_masks_are_named_by_its_weights():
    artifact = load_artifact(SHIPPED, "segmenter")
    assert sum(file.stat().st_size for file in SHIPPED.iterdir()) < MEGABYTES * 1e6
    assert artifact.meta.labels == {0: "background", 1: "brain"}
    assert artifact.meta.plan.space.foreground != "brain"
    assert MaskNetwork().name == f"medae {artifact.digest[:12]} near the sure"


def test_the_mask_is_one_piece_without_holes(phantom):
    image = torch.from_numpy(phantom.t1.astype(np.float32))[None]
    result = MaskNetwork()(image, phantom.affine)
    mask, doubtful = result.mask[0].numpy(), result.doubtful[0].numpy()
    assert ndimage.label(mask)[1] == 1
    assert np.array_equal(ndimage.binary_fill_holes(mask), mask)
    assert doubtful.any()
    assert not (doubtful & ~ndimage.binary_dilation(mask, iterations=3)).any()


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 5.0), (2.0, 2.0, 2.0), (0.5, 1.0, 3.0)])
def test_the_brain_reaches_so_far_beyond_what_is_surely_brain(spacing):
    rows, columns, _ = np.indices((120, 120, 4)) * np.reshape(spacing, (3, 1, 1, 1))
    apart = np.hypot(rows - 60 * spacing[0], columns - 60 * spacing[1])
    probability = np.where(apart < 15, 0.95, np.where(apart < 17, 0.6, 0.0))
    leak = (apart >= 17) & (apart < 25) & (columns == 60 * spacing[1]) & (rows > 60 * spacing[0])
    probability[leak] = 0.6  # likelier brain than not
    probability[:, 100, :] = 0.95  # sure, but thinner than any brain
    bay = (apart > 9) & (np.abs(columns - 60 * spacing[1]) <= 3) & (rows < 60 * spacing[0]) & (apart < 17)
    probability[bay] = 0.6  # a lesion at the surface
    mask = brainmask._near_the_sure(probability, spacing)
    compared = (apart < 25) & ~leak & ~((apart > 12) & (rows < 60 * spacing[0]) & (np.abs(columns - 60 * spacing[1]) < 8))
    assert np.array_equal(mask[compared], (apart < 17)[compared])
    assert (bay & compared).any()
    reached = apart[leak & mask].max(initial=17)
    assert reached == pytest.approx(15 + brainmask.REACH_MM, abs=1.5 * spacing[0])
    assert not mask[:, 100].any()
    assert ndimage.label(mask)[1] == 1


@pytest.mark.parametrize(("unsure", "kept"), [(1, False), (4, True)])
def test_slices_in_which_nothing_is_sure_are_left_out_if_they_are_few(unsure, kept):
    probability = np.zeros((30, 30, 20))
    probability[5:25, 5:25] = 0.95
    probability[:, :, 20 - unsure :] *= 0.7
    mask = brainmask._near_the_sure(probability, (2.0, 2.0, 2.0))
    assert mask[5:25, 5:25, : 20 - unsure].all()
    assert mask[:, :, 20 - unsure :].any() == kept


def test_where_nothing_is_surely_brain_the_likely_is():
    probability = np.zeros((20, 20, 5))
    probability[5:15, 5:15, 1:4] = 0.7
    assert np.array_equal(brainmask._near_the_sure(probability, (2.0, 2.0, 2.0)), probability > 0.5)


def test_channels_are_averaged_and_the_result_does_not_depend_on_units(phantom):
    image = torch.from_numpy(phantom.t1.astype(np.float32))[None]
    network = MaskNetwork()
    one = network(image, phantom.affine).mask
    assert torch.equal(network(torch.cat([image, image]), phantom.affine).mask, one)
    assert dice(network(1000 * image, phantom.affine).mask.numpy(), one.numpy()) > 0.999


def test_where_there_is_no_brain_it_is_said_so():
    noise = torch.from_numpy(np.random.default_rng(0).uniform(0, 1, (1, 40, 40, 20)).astype(np.float32))
    with pytest.raises(DataError, match="No brain is found"):
        MaskNetwork()(noise, np.diag([1.0, 1.0, 1.0, 1.0]))  # 32 ml


def test_the_plan_names_the_extraction():
    brain = SpacePlan(foreground="brain")
    assert extraction_of(brain) is None
    assert extraction_of(SpacePlan(foreground="head", brain_extraction="medae")) is None
    assert isinstance(extraction_of(brain.model_copy(update={"brain_extraction": "medae"})), MaskNetwork)
    assert isinstance(extraction_of(brain.model_copy(update={"brain_extraction": "deepbet"})), DeepBet)


def test_a_folder_that_is_no_such_network_is_refused(tmp_path: Path):
    with pytest.raises(ArtifactError, match="no such model folder"):
        MaskNetwork(tmp_path / "nothing")(torch.zeros(1, 4, 4, 4), np.eye(4))


@pytest.mark.data
def test_heads_that_it_was_not_made_with(data_root: Path):
    manifest = BIDSSource(root=data_root / "ixi_t1").manifest()
    unseen = split_subjects(manifest, SplitConfig(salt="medae-test:", test=12, validation=4)).test
    case = manifest.of_subjects(unseen[:1]).cases[0]
    image, native = read_array(manifest, case.images["T1w"])
    labels, _ = read_array(manifest, case.targets["label"])
    brain, affine = np.asarray(ndimage.binary_fill_holes(labels[0] > 0)), native.ras()[1]
    result = MaskNetwork()(torch.from_numpy(image), affine)
    assert dice(result.mask[0].numpy(), brain) > 0.95
    core = ndimage.binary_erosion(brain, iterations=5)
    assert 0.01 < float(result.doubtful.sum() / result.mask.sum()) < 0.3
    assert (result.doubtful[0].numpy() & core).sum() < 0.01 * core.sum(), "doubt lies along the edge"
    config = RenderConfig(own_contrast=0.0, stripped=0.0)
    head = classify(image[0], brain)
    rendered = [render_head(head, (2.0, 2.0, 2.0), config, numpy_generator(9, n)) for n in range(2)]
    assert min(dice(found(each, affine), brain) for each in rendered) > 0.93


def test_a_network_for_something_else_is_refused(monkeypatch: pytest.MonkeyPatch):
    artifact = load_artifact(SHIPPED)
    plan = artifact.meta.plan
    space = plan.space.model_copy(update={"foreground": "brain"})
    meta = artifact.meta.model_copy(update={"plan": plan.model_copy(update={"space": space})})
    monkeypatch.setattr(brainmask, "load_artifact", lambda *_: type(artifact)(artifact.folder, meta, artifact.digest))
    brainmask._artifact.cache_clear()
    with pytest.raises(ArtifactError, match="one channel"):
        MaskNetwork()(torch.zeros(1, 4, 4, 4), np.eye(4))
    brainmask._artifact.cache_clear()
