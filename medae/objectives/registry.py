"""All objectives by their configuration, and the rules of which network may have which."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from medae.errors import ConfigError
from medae.models.networks import NetworkConfig, shortcuts
from medae.objectives.adversarial import AdversarialConfig
from medae.objectives.base import Objective
from medae.objectives.combined import CombinedConfig, PartConfig
from medae.objectives.denoising import DenoisingConfig
from medae.objectives.lesions import LesionsConfig
from medae.objectives.masked import MaskedConfig
from medae.objectives.reconstruction import ReconstructionConfig
from medae.objectives.restoration import RestorationConfig
from medae.objectives.segmentation import SegmentationConfig
from medae.objectives.variational import VariationalConfig

ObjectiveConfig = Annotated[
    ReconstructionConfig
    | VariationalConfig
    | DenoisingConfig
    | MaskedConfig
    | RestorationConfig
    | LesionsConfig
    | CombinedConfig
    | AdversarialConfig
    | SegmentationConfig,
    Field(discriminator="kind"),
]

SEGMENTERS = ("unet", "segnet", "fcn")


def build_objective(config: ObjectiveConfig, network: NetworkConfig) -> Objective:
    """The objective for a network. Raises ConfigError when the two contradict each other."""
    check_objective(config, network)
    return config.build(network.encoder)


def check_objective(config: ObjectiveConfig, network: NetworkConfig) -> None:
    """Raises ConfigError when a network cannot learn anything useful from an objective."""
    if (config.kind == "segmentation") != (network.kind in SEGMENTERS):
        raise ConfigError(
            f"The objective '{config.kind}' does not fit a network of kind '{network.kind}'.",
            where="objective.kind",
            remedy=f"'segmentation' goes with {', '.join(SEGMENTERS)}; the others with an autoencoder.",
        )
    kinds: set[str] = {part.kind for part in parts_of(config)}
    if ("variational" in kinds) != (network.kind == "vae"):
        raise ConfigError(
            f"The objective {_in_words(kinds)} does not fit a network of kind '{network.kind}'.",
            where="objective.kind",
            remedy="'variational' and the network 'vae' need each other.",
        )
    if ("lesions" in kinds) != getattr(network, "lesion_head", False):
        head = "without a lesion head" if "lesions" in kinds else "with a lesion head"
        raise ConfigError(
            f"The objective {_in_words(kinds)} does not fit a network {head}.",
            where="objective.kind",
            remedy="'lesions' and an autoencoder with network.lesion_head: true need each other.",
        )
    leaks = shortcuts(network)
    if leaks and not config.corrupts:
        raise ConfigError(
            f"Plain reconstruction with {' and '.join(leaks)} learns to copy its input: the location of every detail "
            "goes around the bottleneck, so that the encoder learns nothing and a lesion is copied.",
            where="network.decoder",
            remedy="Remove the skips (and max_unpool), or take an objective that corrupts its input in every part: masked, "
            "denoising or restoration.",
        )
    for part in parts_of(config):
        if isinstance(part, MaskedConfig):
            part.check_block(network.encoder)


def parts_of(config: ObjectiveConfig) -> tuple[PartConfig | SegmentationConfig, ...]:
    """The objectives that a combination is made of; any other is its own only part."""
    if isinstance(config, AdversarialConfig):
        return parts_of(config.of)
    return tuple(part.objective for part in config.parts) if isinstance(config, CombinedConfig) else (config,)


def _in_words(kinds: set[str]) -> str:
    return " with ".join(f"'{kind}'" for kind in sorted(kinds))
