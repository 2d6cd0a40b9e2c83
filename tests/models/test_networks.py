from __future__ import annotations

import json
import math
from typing import Any, get_args

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from medae.models.autoencoder import AutoencoderConfig
from medae.models.encoder import Encoder, EncoderConfig
from medae.models.fcn import FCNConfig
from medae.models.networks import Network, NetworkConfig, build_network, shortcuts
from medae.models.unet import UNetConfig
from medae.models.upsampling import UpsamplingKind
from medae.models.vae import VAEConfig

ADAPTER: TypeAdapter[Any] = TypeAdapter(NetworkConfig)
SIZES = {2: (21, 18), 3: (17, 14, 15)}
KINDS = ["autoencoder", "dense", "vae", "dense_vae", "unet", "segnet", "fcn"]


def encoder(dims: int = 2, stem: str = "space_to_depth", **changes: Any) -> dict[str, Any]:
    first = (1 if stem == "plain" else 2,) * dims
    return {
        "spatial_dims": dims,
        "stem": stem,
        "widths": (4, 6, 8),
        "strides": (first, (2,) * dims, (2,) * dims),
        "kernels": ((3,) * dims,) * 3,
    } | changes


def network_config(kind: str, dims: int = 2, upsampling: str | None = None, **changes: Any) -> Any:
    """A small network of any kind, with max pooling where the way up needs it."""
    pooled = kind == "segnet" or upsampling == "max_unpool"
    shape = encoder(dims, **({"downsampling": "maxpool"} if pooled else {}) | changes)
    dense = {"kind": "dense", "size": 5, "channels": 2, "input_size": SIZES[dims]}
    decoder = {"upsampling": upsampling}
    values: dict[str, dict[str, Any]] = {
        "autoencoder": {"decoder": decoder},
        "dense": {"kind": "autoencoder", "bottleneck": dense, "decoder": decoder},
        "vae": {"latent": {"kind": "spatial", "channels": 3}, "decoder": decoder},
        "dense_vae": {"kind": "vae", "latent": dense, "decoder": decoder},
        "unet": {"classes": 3, "decoder": decoder},
        "segnet": {"classes": 3},
        "fcn": {"classes": 3} | ({"upsampling": upsampling} if upsampling else {}),
    }
    return ADAPTER.validate_python({"kind": kind, "encoder": shape} | values[kind])


def possible() -> list[tuple[str, str | None]]:
    unpooling = {"fixed_unpool", "max_unpool"}
    ways = get_args(UpsamplingKind)
    return [
        (kind, way)
        for kind in KINDS
        for way in ([None] if kind == "segnet" else ways)
        if not (kind == "fcn" and way in unpooling)
    ]


def backward(network: Network, image: Tensor) -> None:
    """A loss that no norm makes constant."""
    output = network(image)
    loss = sum((torch.randn_like(x) * x).mean() for x in output.maps)
    loss.backward()  # type: ignore[union-attr]


@pytest.mark.parametrize("stem", ["plain", "space_to_depth"])
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(("kind", "upsampling"), possible())
def test_every_network_takes_odd_sizes_and_all_its_parameters_learn(kind: str, upsampling: str | None, dims: int, stem: str):
    torch.manual_seed(0)
    network = build_network(network_config(kind, dims, upsampling, stem=stem))
    image = torch.randn(2, 1, *SIZES[dims])
    output = network(image)
    channels = 3 if kind in ("unet", "segnet", "fcn") else 1
    assert output.finest.shape == (2, channels, *SIZES[dims])
    assert output.finest.dtype == torch.float32
    assert torch.isfinite(output.finest).all()
    assert len(output.maps) == 1
    backward(network, image)
    silent = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


def _gradients(config: Any, device: str) -> list[Tensor]:
    """Of one seeded step in bf16 and channels last."""
    torch.manual_seed(0)
    dims = config.encoder.spatial_dims
    memory: Any = torch.channels_last if dims == 2 else torch.channels_last_3d
    network = build_network(config).to(device).to(memory_format=memory)
    image = torch.randn(2, 1, *SIZES[dims]).to(device, memory_format=memory)
    with torch.autocast(device, torch.bfloat16):
        output = network(image)
    assert output.finest.dtype == torch.float32
    (output.finest * torch.randn(output.finest.shape).to(device)).mean().backward()
    found = [p.grad for p in network.parameters()]
    assert all(g is not None and torch.isfinite(g).all() for g in found)
    return found  # type: ignore[return-value]


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_every_network_runs_in_bf16_and_channels_last_with_deterministic_algorithms(kind: str, dims: int):
    config = network_config(kind, dims, dropout=0.2, block="residual")
    torch.use_deterministic_algorithms(True)
    try:
        first, second = (_gradients(config, "cpu") for _ in range(2))
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dims", [2, 3])
def test_memory_format_and_precision_change_the_result_by_rounding_only(kind: str, dims: int):
    torch.manual_seed(0)
    network = build_network(network_config(kind, dims)).eval()
    image = torch.randn(2, 1, *SIZES[dims])
    with torch.no_grad():
        expected = network(image).finest
        memory = torch.channels_last if dims == 2 else torch.channels_last_3d
        network.to(memory_format=memory)  # type: ignore[call-overload]
        image = image.contiguous(memory_format=memory)
        torch.testing.assert_close(network(image).finest, expected, rtol=1e-3, atol=1e-4)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = network(image).finest
    assert (rounded - expected).abs().mean() < 0.1 * expected.abs().mean() + 0.01


@pytest.mark.parametrize("block", ["plain", "residual"])
@pytest.mark.parametrize("norm", ["instance", "batch"])
@pytest.mark.parametrize("kind", KINDS)
def test_one_encoders_weights_load_strictly_into_every_network(kind: str, norm: str, block: str):
    shape = encoder(2, downsampling="maxpool", norm=norm, block=block, blocks=2)
    source = build_network(AutoencoderConfig(encoder=EncoderConfig(**shape)))
    weights = {name: value for name, value in source.state_dict().items() if name.startswith("encoder.")}
    network = build_network(network_config(kind, **{k: v for k, v in shape.items() if k != "spatial_dims"}))
    assert {name for name in network.state_dict() if name.startswith("encoder.")} == set(weights)
    network.load_state_dict({**network.state_dict(), **weights}, strict=True)
    network.encoder.load_state_dict(source.encoder.state_dict(), strict=True)
    image = torch.randn(1, 1, *SIZES[2])
    network.eval()
    source.eval()
    assert torch.equal(network.encoder(image).levels[-1], source.encoder(image).levels[-1])


@pytest.mark.parametrize("kind", KINDS)
def test_names_tell_encoder_decoder_and_head_apart(kind: str):
    first = {name.split(".")[0] for name in build_network(network_config(kind)).state_dict()}
    extra = {"fcn": set(), "unet": {"decoder"}, "segnet": {"decoder"}, "autoencoder": {"decoder"}}
    assert first == {"encoder", "head"} | extra.get(kind, {"decoder", "bottleneck"})


@pytest.mark.parametrize("kind", KINDS)
def test_a_configuration_survives_json_and_builds_the_same_network(kind: str):
    config = network_config(kind)
    again = ADAPTER.validate_python(json.loads(config.model_dump_json()))
    assert again == config
    network = build_network(config)
    assert network.config == config
    build_network(again).load_state_dict(network.state_dict(), strict=True)


@pytest.mark.parametrize("kind", KINDS)
def test_sparse_encoding_keeps_hidden_voxels_out_of_every_network(kind: str):
    torch.manual_seed(0)
    network = build_network(network_config(kind)).eval()
    image = torch.randn(2, 1, *SIZES[2])
    visible = torch.rand(2, 1, 3, 3).gt(0.5).repeat_interleave(8, 2).repeat_interleave(8, 3)[:, :, :21, :18]
    other = torch.where(visible, image, 100 * torch.randn_like(image))
    with torch.no_grad():
        assert torch.equal(network(image, visible).finest, network(other, visible).finest)
        assert not torch.equal(network(image, visible).finest, network(image).finest)


@pytest.mark.parametrize("kind", ["unet", "segnet", "fcn"])
def test_a_segmenter_starts_near_even_odds(kind: str):
    torch.manual_seed(0)
    logits = build_network(network_config(kind, 3))(torch.randn(2, 1, 24, 24, 24)).finest
    target = torch.randint(0, 3, (2, 24, 24, 24))
    assert torch.nn.functional.cross_entropy(logits, target).item() == pytest.approx(math.log(3), abs=0.05)


def test_an_autoencoder_starts_near_zero_and_a_residual_one_near_its_input():
    torch.manual_seed(0)
    image = torch.randn(2, 1, 32, 32)
    plain = build_network(AutoencoderConfig(encoder=EncoderConfig(**encoder())))(image).finest
    residual = build_network(AutoencoderConfig(encoder=EncoderConfig(**encoder()), residual=True))(image).finest
    assert float(plain.detach().abs().mean()) < 0.3
    assert float((residual - image).detach().abs().mean()) < 0.3


def test_residual_learning_does_not_add_hidden_voxels():
    network = build_network(AutoencoderConfig(encoder=EncoderConfig(**encoder()), residual=True))
    image = torch.randn(1, 1, 32, 32)
    visible = torch.ones(1, 1, 32, 32, dtype=torch.bool)
    visible[..., :16] = False
    assert torch.equal(network(image, visible).finest, network(image * visible, visible).finest)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("kind", ["unet", "segnet", "fcn"])
def test_deep_supervision_gives_a_map_a_level_and_changes_the_finest_in_nothing(kind: str, dims: int):
    config = network_config(kind, dims)
    network = build_network(config.model_copy(update={"deep_supervision": True}))
    image = torch.randn(1, 1, *SIZES[dims])
    maps = network(image).maps
    half, quarter, eighth = [{2: (11, 9), 3: (9, 7, 8)}, {2: (6, 5), 3: (5, 4, 4)}, {2: (3, 3), 3: (3, 2, 2)}]
    levels = [SIZES[dims], half[dims], quarter[dims], *([eighth[dims]] if kind == "fcn" else [])]
    assert [tuple(x.shape) for x in maps] == [(1, 3, *size) for size in levels]
    backward(network, image)
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())
    plain = build_network(config)
    plain.load_state_dict({name: value for name, value in network.state_dict().items() if name in plain.state_dict()})
    assert torch.equal(plain(image).finest, maps[0])
    assert len(plain(image).maps) == 1


def test_an_fcn_with_a_plain_stem_has_one_map_of_the_images_size():
    config = FCNConfig(encoder=EncoderConfig(**encoder(stem="plain")), classes=2, deep_supervision=True)
    maps = build_network(config)(torch.randn(1, 1, 16, 16)).maps
    assert [tuple(x.shape[2:]) for x in maps] == [(16, 16), (8, 8), (4, 4)]
    coarsest = build_network(config.model_copy(update={"scored": 1}))(torch.randn(1, 1, 16, 16)).maps
    assert [tuple(x.shape[2:]) for x in coarsest] == [(16, 16), (4, 4)], "no sum without scores of its own"


@pytest.mark.parametrize("kind", ["unet", "segnet"])
def test_deep_supervision_without_a_level_to_supervise_is_refused(kind: str):
    small = {"widths": (4, 6), "strides": ((1, 1), (2, 2)), "kernels": ((3, 3),) * 2, "stem": "plain"}
    shape = encoder(**small | ({"downsampling": "maxpool"} if kind == "segnet" else {}))
    with pytest.raises(ValidationError, match="a network of two levels has none"):
        ADAPTER.validate_python({"kind": kind, "encoder": shape, "classes": 2, "deep_supervision": True})


def test_the_latent_is_the_bottleneck():
    image = torch.randn(2, 1, *SIZES[2])
    shapes = {kind: tuple(build_network(network_config(kind))(image).latent.shape) for kind in KINDS}  # type: ignore[union-attr]
    coarse = (2, 8, 3, 3)
    assert shapes == {
        "autoencoder": coarse,
        "dense": (2, 5),
        "vae": (2, 3, 3, 3),
        "dense_vae": (2, 5),
        "unet": coarse,
        "segnet": coarse,
        "fcn": coarse,
    }


def test_a_spatial_bottleneck_of_fewer_channels_is_what_the_decoder_gets():
    config = AutoencoderConfig(encoder=EncoderConfig(**encoder()), bottleneck={"kind": "spatial", "channels": 2})  # type: ignore[arg-type]
    network: Any = build_network(config)
    image = torch.randn(2, 1, 16, 24)
    latent = network(image).latent
    assert latent.shape == (2, 2, 2, 3)
    assert torch.linalg.matrix_rank(network.bottleneck.expand(latent).flatten(2)[0].T.detach() - _bias(network)) <= 2


def _bias(network: Any) -> Tensor:
    return network.bottleneck.up.bias.detach()


def test_a_dense_bottleneck_refuses_another_size_and_says_which_it_takes():
    network = build_network(network_config("dense"))
    with pytest.raises(ValueError, match=r"takes images of \(21, 18\) voxels only"):
        network(torch.randn(1, 1, 32, 32))


def test_a_vae_draws_in_training_by_the_global_generator_and_takes_the_mean_otherwise():
    network = build_network(network_config("dense_vae"))
    image = torch.randn(2, 1, *SIZES[2])
    torch.manual_seed(1)
    first, second = network(image), network(image)
    torch.manual_seed(1)
    again = network(image)
    assert first.latent is not None
    assert second.latent is not None
    assert again.latent is not None
    assert torch.equal(first.latent, again.latent)
    assert not torch.equal(first.latent, second.latent)
    assert torch.equal(first.extras["mu"], second.extras["mu"])
    deviation = (0.5 * first.extras["logvar"]).exp()
    torch.manual_seed(1)
    torch.testing.assert_close(first.latent, first.extras["mu"] + deviation * torch.randn(2, 5))
    network.eval()
    still = network(image)
    assert still.latent is not None
    assert torch.equal(still.latent, still.extras["mu"])


def test_the_vaes_variance_stays_finite_whatever_the_encoder_gives():
    network: Any = build_network(VAEConfig(encoder=EncoderConfig(**encoder())))
    with torch.no_grad():
        network.bottleneck.down.bias.fill_(1e6)
    output = network(torch.randn(1, 1, 16, 16))
    assert torch.isfinite(output.extras["logvar"].exp()).all()
    assert float(output.extras["logvar"].detach().max()) == 10


def test_shortcuts_name_everything_that_carries_location_past_the_bottleneck():
    pooled = EncoderConfig(**encoder(downsampling="maxpool"))
    assert shortcuts(AutoencoderConfig(encoder=pooled)) == ()
    assert shortcuts(VAEConfig(encoder=pooled)) == ()
    unpooling: Any = {"upsampling": "max_unpool", "skips": ["sum", "none"]}
    assert shortcuts(VAEConfig(encoder=pooled, decoder=unpooling)) == ("skip connections (sum)", "max-pooling indices")
    assert shortcuts(network_config("unet")) == ("skip connections (concat)",)
    assert shortcuts(network_config("segnet")) == ("max-pooling indices",)
    assert shortcuts(network_config("fcn")) == ("score layers of finer levels (sum)",)
    assert shortcuts(FCNConfig(encoder=pooled, classes=2, scored=1)) == ()
    (only,) = shortcuts(AutoencoderConfig(encoder=pooled, residual=True))
    assert "added to the output" in only


@pytest.mark.parametrize("scored", [1, 2, 3])
def test_an_fcn_scores_as_many_levels_as_asked(scored: int):
    network = build_network(FCNConfig(encoder=EncoderConfig(**encoder()), classes=2, scored=scored))
    features: list[Tensor] = []
    network.encoder.register_forward_hook(lambda _, __, found: features.extend(found.levels))
    image = torch.randn(1, 1, 16, 16)
    output = network(image)
    for level in features:
        level.retain_grad()
    output.finest.square().sum().backward()
    direct = {name for name, _ in network.named_parameters() if name.startswith("head.scores")}
    assert len(direct) == 2 * scored
    assert all(level.grad is not None for level in features)


def test_what_an_fcn_sums_is_each_level_brought_up():
    torch.manual_seed(0)
    network: Any = build_network(
        FCNConfig(encoder=EncoderConfig(**encoder(stem="plain")), classes=2, upsampling="nearest")
    ).eval()
    image = torch.randn(1, 1, 16, 16)
    levels = network.encoder(image).levels
    expected = sum(
        layer(x).repeat_interleave(2**i, 2).repeat_interleave(2**i, 3)
        for i, (layer, x) in enumerate(zip(network.head.scores, levels, strict=True))
    )
    torch.testing.assert_close(network(image).finest, expected)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"kind": "segnet", "classes": 2, "encoder": encoder()}, "set encoder.downsampling to maxpool"),
        (
            {
                "kind": "segnet",
                "classes": 2,
                "encoder": encoder(downsampling="maxpool"),
                "decoder": {"upsampling": "linear"},
            },
            "choose a unet",
        ),
        (
            {"kind": "segnet", "classes": 2, "encoder": encoder(downsampling="maxpool"), "decoder": {"skips": "concat"}},
            "in the place of skips",
        ),
        ({"kind": "unet", "classes": 2, "encoder": encoder(), "decoder": {"upsampling": "max_unpool"}}, "has no maxima"),
        ({"kind": "vae", "encoder": encoder(), "decoder": {"upsampling": "max_unpool"}}, "has no maxima"),
        ({"kind": "autoencoder", "encoder": encoder(), "decoder": {"upsampling": "max_unpool"}}, "has no maxima"),
        ({"kind": "unet", "classes": 2, "encoder": encoder(), "decoder": {"skips": ["concat"]}}, "1 entries"),
        ({"kind": "unet", "classes": 1, "encoder": encoder()}, "greater than or equal to 2"),
        ({"kind": "autoencoder", "encoder": encoder(), "residual": True, "out_channels": 2}, "residual adds the input"),
        (
            {
                "kind": "autoencoder",
                "encoder": encoder(),
                "bottleneck": {"kind": "dense", "size": 4, "input_size": [8, 8, 8]},
            },
            "input_size needs 2 numbers",
        ),
        (
            {"kind": "vae", "encoder": encoder(), "latent": {"kind": "dense", "size": 4, "input_size": [8]}},
            "input_size needs 2 numbers",
        ),
        ({"kind": "fcn", "classes": 2, "encoder": encoder(), "scored": 4}, "the encoder has 3"),
        ({"kind": "fcn", "classes": 2, "encoder": encoder(), "upsampling": "max_unpool"}, "'linear'"),
        ({"kind": "transformer", "encoder": encoder()}, "does not match any of the expected tags"),
    ],
)
def test_contradictions_are_refused_in_plain_words(config: dict[str, Any], words: str):
    with pytest.raises(ValidationError, match=words):
        ADAPTER.validate_python(config)


def test_a_unet_without_skips_is_had_by_asking_for_it():
    config = UNetConfig(encoder=EncoderConfig(**encoder()), classes=2, decoder={"skips": "none"})  # type: ignore[arg-type]
    assert shortcuts(config) == ()
    left_open = UNetConfig(encoder=EncoderConfig(**encoder()), classes=2, decoder={"upsampling": "cubic"})  # type: ignore[arg-type]
    assert left_open.decoder.skips == "concat"


def test_an_encoder_stands_alone():
    config = EncoderConfig(**encoder(3))
    assert Encoder(config)(torch.randn(1, 1, 16, 16, 16)).levels[-1].shape == (1, 8, 2, 2, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_every_network_learns(kind: str):
    """Ten steps on one batch lower the loss: the whole way from head to stem is trained."""
    torch.manual_seed(0)
    network = build_network(network_config(kind))
    image = torch.nn.functional.avg_pool2d(torch.randn(2, 1, 25, 22), 5, stride=1) * 3
    target = (image > 0).squeeze(1).long()
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        output = network(image).finest
        segments = output.shape[1] == 3
        loss = torch.nn.functional.cross_entropy(output, target) if segments else (output - image).abs().mean()
        losses.append(float(loss.detach()))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert losses[-1] < 0.85 * losses[0]


@pytest.mark.gpu
@pytest.mark.parametrize("dims", [2, 3])
def test_on_a_gpu_two_runs_are_bit_identical(dims: int, monkeypatch: pytest.MonkeyPatch):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    try:
        for kind, upsampling in possible():
            config = network_config(kind, dims, upsampling)
            first, second = (_gradients(config, "cuda") for _ in range(2))
            assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True)), (kind, upsampling)
    finally:
        torch.use_deterministic_algorithms(False)
