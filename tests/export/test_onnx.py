"""Networks as ONNX files: ONNX Runtime computes what torch computes, whatever the way up, at sizes of its own."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from stored import LABELS, stored_model
from torch import Tensor, nn

from medae.artifact import Artifact
from medae.errors import ArtifactError, ConfigError
from medae.export import onnx as module
from medae.export.onnx import PACKAGES, export_onnx
from medae.models.base import Network
from medae.models.encoder import EncoderConfig
from medae.models.output import Output
from medae.models.upsampling import Upsampler, UpsamplingKind

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

WAYS: dict[tuple[int, ...], tuple[UpsamplingKind, ...]] = {
    (2, 1): ("cubic", "pixelshuffle", "transposed"),
    (1, 2, 1): ("nearest", "linear", "fixed_unpool", "max_unpool"),
}
"""By the strides. All ways at once, in 2D and in 3D, take minutes."""


class Ways(Network):
    """An encoder of two levels, and ways back up from the second, side by side."""

    def __init__(self, stride: tuple[int, ...]) -> None:
        dims = len(stride)
        encoder = EncoderConfig(
            spatial_dims=dims,
            widths=(2, 2),
            strides=((1,) * dims, stride),
            kernels=((1,) * dims, (3,) * dims),
            downsampling="maxpool",
        )
        super().__init__(type("Config", (), {"encoder": encoder})(), encoder)
        self.ups = nn.ModuleList(Upsampler(kind, 2, 2, stride) for kind in WAYS[stride])

    def forward(self, image: Tensor, visible: Tensor | None = None) -> Output:
        features = self.encoder(image)
        maps = [up(features.levels[1], features.sizes[1], features.indices[1]) for up in self.ups]
        return Output((torch.cat(maps, dim=1),))


def computed(path: Path, image: Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(None, {"image": image.numpy()})[0]
    return found


def test_every_way_up_is_among_them() -> None:
    assert {way for ways in WAYS.values() for way in ways} == set(get_args(UpsamplingKind))


@pytest.mark.slow
@pytest.mark.parametrize("stride", WAYS)
def test_every_way_up(stride: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dims = len(stride)
    artifact = stored_model(tmp_path / "model", dims=dims)
    torch.manual_seed(0)
    network = Ways(stride).eval()
    monkeypatch.setattr(Artifact, "model", lambda self: network)
    exported = export_onnx(artifact, tmp_path / "net.onnx")
    assert exported.graph.fixed == ""
    assert exported.difference <= 1e-6
    image = torch.randn(2, 1, 10, *(6,) * (dims - 1))
    with torch.no_grad():
        expected = network(image).finest.numpy()
    np.testing.assert_allclose(computed(tmp_path / "net.onnx", image), expected, atol=1e-5)


def test_a_segnet_and_what_its_file_says(tmp_path: Path) -> None:
    artifact = stored_model(tmp_path / "model", "segnet", 3)
    exported = export_onnx(artifact, tmp_path / "net.onnx")
    image = torch.randn(1, 1, 4, 12, 6)
    with torch.no_grad():
        expected = artifact.model()(image).finest.numpy()
    np.testing.assert_allclose(computed(tmp_path / "net.onnx", image), expected, atol=1e-5)
    model = onnx.load(tmp_path / "net.onnx")
    said = {entry.key: entry.value for entry in model.metadata_props}
    assert said["medae.digest"] == artifact.digest
    assert json.loads(said["medae.labels"]) == {str(value): name for value, name in LABELS.items()}
    assert json.loads(said["medae.plan"]) == artifact.meta.plan.choices()
    assert json.loads(said["medae.sizes"]) == exported.graph.sizes()
    sizes = [dim.dim_param or dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    assert sizes == ["batch", 1, "2*n0", "2*n1", "2*n2"]
    assert str(Path(module.__file__).parents[2]).encode() not in (tmp_path / "net.onnx").read_bytes()


def test_a_dense_bottleneck_fixes_the_size_but_not_the_batch(tmp_path: Path) -> None:
    latent = {"kind": "dense", "size": 3, "input_size": [8, 8]}
    choice = {"latent": latent, "decoder": {"upsampling": "transposed"}}
    artifact = stored_model(tmp_path / "model", "vae", 2, choice=choice)
    exported = export_onnx(artifact, tmp_path / "net.onnx")
    assert exported.graph.sizes() == {"batch": "any", "axes": ["8", "8"]}
    image = torch.randn(5, 1, 8, 8)
    with torch.no_grad():
        expected = artifact.model()(image).finest.numpy()
    np.testing.assert_allclose(computed(tmp_path / "net.onnx", image), expected, atol=1e-5)


def test_an_operation_without_a_counterpart_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = stored_model(tmp_path / "model", dims=2)
    network = Ways((2, 1)).eval()
    network.forward = lambda image: Output((torch.special.bessel_j0(image),))  # type: ignore[method-assign]
    monkeypatch.setattr(Artifact, "model", lambda self: network)
    with pytest.raises(ArtifactError, match="cannot be written as ONNX") as caught:
        export_onnx(artifact, tmp_path / "net.onnx")
    assert "bessel" in caught.value.what
    assert "torch-export" in str(caught.value.remedy)
    assert not (tmp_path / "net.onnx").exists()


def test_weights_beyond_two_gigabytes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LARGEST", 100)
    with pytest.raises(ArtifactError, match="2 GB"):
        export_onnx(stored_model(tmp_path / "model", dims=2), tmp_path / "net.onnx")


@pytest.mark.parametrize("package", PACKAGES)
def test_a_missing_package_is_named(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = stored_model(tmp_path / "model", dims=2)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=f"{package} cannot be imported") as caught:
        export_onnx(artifact, tmp_path / "net.onnx")
    assert caught.value.remedy == "pip install 'medae[onnx]'"
