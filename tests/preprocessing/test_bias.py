"""N4: a known shading is taken out, the scale is kept, and what it is not made for is refused."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from medae.config import validate
from medae.data.case import Case, ImageRef, Manifest
from medae.errors import ConfigError, DataError
from medae.plan import RobustZ, SpacePlan
from medae.preprocessing.bias import correct_bias
from medae.preprocessing.prepare import prepare_case


@pytest.fixture(scope="module")
def shaded() -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """A ball of two tissues and its mask, under a shading from 0.7 to 1.4; and the tissues."""
    index = np.stack(np.meshgrid(*[np.linspace(-1, 1, 20)] * 3, indexing="ij"))
    radius = np.sqrt((index**2).sum(axis=0))
    tissue = np.select([radius < 0.55, radius < 0.9], [200.0, 120.0], 0.0)
    field = np.exp(0.35 * index[0] + 0.1 * index[1] ** 2)
    noisy = tissue * field + np.random.default_rng(0).normal(0, 2, tissue.shape) * (tissue > 0)
    return torch.from_numpy(noisy.astype(np.float32))[None], torch.from_numpy(radius < 0.9)[None], tissue


def spread(image: torch.Tensor, where: np.ndarray) -> float:
    values = image[0].numpy()[where]
    return float(values.std() / values.mean())


def test_a_known_shading_is_taken_out_and_the_scale_is_kept(shaded) -> None:  # type: ignore[no-untyped-def]
    image, mask, tissue = shaded
    corrected = correct_bias(image, mask, (6.0, 6.0, 6.0))
    assert corrected.dtype == torch.float32
    for value in (120.0, 200.0):
        assert spread(corrected, tissue == value) < 0.4 * spread(image, tissue == value)
    ratio = float((image / corrected)[mask].log().mean())
    assert ratio == pytest.approx(0, abs=1e-4)
    assert torch.equal(corrected[~mask], image[~mask])
    assert torch.equal(corrected, correct_bias(image, mask, (6.0, 6.0, 6.0)))


def test_an_even_image_and_a_centred_one() -> None:
    mask = torch.ones(1, 8, 8, 8, dtype=torch.bool)
    assert torch.equal(correct_bias(torch.full((1, 8, 8, 8), 3.0), mask, (1, 1, 1)), torch.full((1, 8, 8, 8), 3.0))
    centred = torch.linspace(-1, 1, 512).reshape(1, 8, 8, 8)
    with pytest.raises(DataError, match="not above 0"):
        correct_bias(centred, mask, (1, 1, 1))


def test_a_single_slice_is_an_error_with_a_remedy() -> None:
    image = torch.from_numpy(np.random.default_rng(0).uniform(50, 100, (1, 40, 48, 1)).astype(np.float32))
    with pytest.raises(DataError, match="no field fits 40 x 48 x 1 voxels") as caught:
        correct_bias(image, image > 0, (1, 1, 1))
    assert "bias_correction to none" in str(caught.value.remedy)


def test_it_is_for_mr(shaded, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ConfigError, match="bias_correction is for MR"):
        validate(SpacePlan, {"bias_correction": "n4", "intensity": {"kind": "ct_window"}}, where="plan")
    image, _, _ = shaded
    nib.save(nib.Nifti1Image(image[0].numpy(), np.diag([6.0, 6, 6, 1])), tmp_path / "a.nii")
    space = SpacePlan(spacing=(None,) * 3, bias_correction="n4", intensity=RobustZ())
    for modality in ("CT", "MR"):
        ref = ImageRef(files=("a.nii",), sha256="a", kind="intensity", modality=modality)
        case = Case(id="a", subject="a", images={"image": ref})
        manifest = Manifest(source="test", root=tmp_path, channels=("image",), cases=(case,))
        if modality == "CT":
            with pytest.raises(DataError, match="this image is CT") as caught:
                prepare_case(manifest, case, space)
            assert caught.value.where == "a.nii"
        else:
            plain = prepare_case(manifest, case, space.model_copy(update={"bias_correction": "none"}))
            assert not torch.equal(prepare_case(manifest, case, space).image, plain.image)
