"""Networks as torch programs: the numbers are the network's, at sizes that it was not traced with."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from stored import LABELS, stored_model
from torch import Tensor

from medae.errors import ArtifactError
from medae.export import graph
from medae.export.bundled.finest import FinestMap
from medae.export.torch_export import FACTS, export_torch
from medae.models.base import Network
from medae.models.encoder import EncoderConfig
from medae.models.output import Output

DENSE = {"kind": "dense", "size": 5}
TRANSPOSED = {"decoder": {"upsampling": "transposed"}}
"""The fastest to trace; the others are in test_onnx.py."""

KINDS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "unet": ("unet", 2, {}),
    "unet, 3D, residual, group norm": (
        "unet",
        3,
        {"encoder": {"block": "residual", "norm": "group"}, "choice": TRANSPOSED},
    ),
    "unet, space to depth, three slices": (
        "unet",
        2,
        {
            "encoder": {"stem": "space_to_depth", "strides": [[2, 2], [2, 2]]},
            "space": {"slices": 3},
            "choice": TRANSPOSED,
        },
    ),
    "segnet, 3D": ("segnet", 3, {}),
    "fcn": ("fcn", 2, {"choice": {"upsampling": "transposed"}}),
    "autoencoder": ("autoencoder", 2, {"choice": {"residual": True, **TRANSPOSED}}),
    "lesion head": ("autoencoder", 2, {"choice": {"lesion_head": True, **TRANSPOSED}, "space": {"channels": ["a", "b"]}}),
    "dense autoencoder": ("autoencoder", 2, {"choice": {"bottleneck": {**DENSE, "input_size": [8, 8]}}}),
    "dense vae, 3D": ("vae", 3, {"choice": {"latent": {**DENSE, "input_size": [8, 8, 8]}}}),
    "ensemble": ("ensemble", 2, {"choice": TRANSPOSED}),
    "autoencoders": ("autoencoder_ensemble", 2, {"choice": {"lesion_head": True, **TRANSPOSED}}),
    "dense autoencoders": ("autoencoder_ensemble", 2, {"choice": {"bottleneck": {**DENSE, "input_size": [8, 8]}}}),
}

CHANNELS = {"lesion head": 3, "autoencoders": 2, "dense autoencoders": 1}


class Toy(Network):
    """A network whose forward pass is the function that is given."""

    def __init__(self, forward: Any) -> None:
        encoder = EncoderConfig(
            spatial_dims=2, widths=(2, 2), strides=((1, 1), (2, 2)), kernels=((3, 3), (3, 3)), norm="none"
        )
        super().__init__(type("Config", (), {"encoder": encoder})(), encoder)
        self.function = forward

    def forward(self, image: Tensor, visible: Tensor | None = None) -> Output:
        return Output((self.function(image),))


@pytest.mark.parametrize("case", KINDS)
def test_the_program_computes_what_the_network_computes(case: str, tmp_path: Path) -> None:
    kind, dims, keys = KINDS[case]
    artifact = stored_model(tmp_path / "model", kind, dims, **keys)
    exported = export_torch(artifact, tmp_path / "net.pt2")
    assert exported.difference <= 1e-6
    assert exported.graph.fixed == ""
    assert exported.graph.batch is None
    assert all(axis.free for axis in exported.graph.axes) == ("dense" not in case)
    cell = [axis.size for axis in exported.graph.axes]
    size = cell if "dense" in case else [4 * cell[0], *(5 * each for each in cell[1:])]
    image = torch.randn(2, artifact.meta.network.encoder.in_channels, *size)
    program = torch.export.load(tmp_path / "net.pt2").module()
    with torch.no_grad():
        output = artifact.model()(image)
        expected = output.finest
        if output.extras.get("lesion") is not None:
            expected = torch.cat([expected, output.extras["lesion"]], dim=1)
        assert expected.shape[1] == CHANNELS.get(case, expected.shape[1])
        assert torch.allclose(program(image), expected, atol=1e-5)


def test_what_is_in_the_file(tmp_path: Path) -> None:
    artifact = stored_model(tmp_path / "model", "segnet", 2)
    export_torch(artifact, tmp_path / "net.pt2")
    inside = {FACTS: ""}
    torch.export.load(tmp_path / "net.pt2", extra_files=inside)
    said = json.loads(inside[FACTS])
    assert said["medae.digest"] == artifact.digest
    assert json.loads(said["medae.labels"]) == {str(value): name for value, name in LABELS.items()}
    assert json.loads(said["medae.plan"]) == artifact.meta.plan.choices()
    assert json.loads(said["medae.sizes"]) == {"batch": "any", "axes": ["multiples of 2 from 4 on"] * 2}
    with zipfile.ZipFile(tmp_path / "net.pt2") as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    assert not [name for name, data in contents.items() if data.startswith(b"\x80") or data[:2] == b"PK"], "a pickle"
    for name, data in contents.items():
        assert str(Path(graph.__file__).parents[2]).encode() not in data, name


def test_an_axis_of_a_single_cell_is_fixed(tmp_path: Path) -> None:
    model = FinestMap(stored_model(tmp_path, "segnet", 3).model()).eval()
    traced = graph.trace(model, (2, 8, 7))
    assert [str(axis) for axis in traced.axes] == ["2", "multiples of 2 from 4 on", "7"]
    assert graph.difference(traced, model, traced.program.module()) == 0


def test_sizes_are_fixed_where_torch_cannot_leave_them_free() -> None:
    model = FinestMap(Toy(lambda image: image * len(image))).eval()
    traced = graph.trace(model, (8, 8))
    assert traced.batch == 1
    assert "batch" in traced.fixed
    assert traced.sizes() == {"batch": "1", "axes": ["8", "8"]}
    assert graph.difference(traced, model, traced.program.module()) == 0


def test_what_torch_cannot_trace_is_refused() -> None:
    model = FinestMap(Toy(lambda image: image if image.sum() > 0 else -image)).eval()
    with pytest.raises(ArtifactError, match="cannot make a graph") as caught:
        graph.trace(model, (8, 8))
    assert "bundle" in str(caught.value.remedy)


def test_other_numbers_are_refused_and_leave_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = stored_model(tmp_path / "model", "segnet", 2)
    monkeypatch.setattr(graph, "TOLERANCE", -1.0)
    with pytest.raises(ArtifactError, match="does not compute"):
        export_torch(artifact, tmp_path / "net.pt2")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_what_torch_cannot_store_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: Any, **_named: Any) -> None:
        raise RuntimeError("no such operation\nand more")

    artifact = stored_model(tmp_path / "model", "segnet", 2)
    monkeypatch.setattr(torch.export, "save", refuse)
    with pytest.raises(ArtifactError, match="cannot store this network as a graph: no such operation"):
        export_torch(artifact, tmp_path / "net.pt2")
    assert not (tmp_path / "net.pt2").exists()
