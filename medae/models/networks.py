"""All networks: one union of their configurations, one function that builds them.

A new network is one file with its configuration, and a line in each of the two tables here.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from medae.models.autoencoder import Autoencoder, AutoencoderConfig
from medae.models.base import Network
from medae.models.ensemble import AutoencoderEnsemble, AutoencoderEnsembleConfig, Ensemble, EnsembleConfig
from medae.models.fcn import FCN, FCNConfig
from medae.models.segnet import SegNet, SegNetConfig
from medae.models.unet import UNet, UNetConfig
from medae.models.vae import VAE, VAEConfig

__all__ = [
    "AutoencoderEnsembleConfig",
    "EnsembleConfig",
    "Network",
    "NetworkConfig",
    "StoredConfig",
    "build_network",
    "shortcuts",
]

NetworkConfig = Annotated[
    AutoencoderConfig | VAEConfig | UNetConfig | SegNetConfig | FCNConfig,
    Field(discriminator="kind"),
]

StoredConfig = Annotated[NetworkConfig | EnsembleConfig | AutoencoderEnsembleConfig, Field(discriminator="kind")]
"""What can be stored and used: the networks that are trained, and several of them together."""

NETWORKS: dict[type, Any] = {
    AutoencoderConfig: Autoencoder,
    VAEConfig: VAE,
    UNetConfig: UNet,
    SegNetConfig: SegNet,
    FCNConfig: FCN,
}

ENSEMBLES: dict[type, Any] = {EnsembleConfig: Ensemble, AutoencoderEnsembleConfig: AutoencoderEnsemble}


def build_network(config: StoredConfig) -> Network:
    """The network of a configuration, with weights drawn from torch's global generator."""
    if isinstance(config, EnsembleConfig | AutoencoderEnsembleConfig):
        together: Network = ENSEMBLES[type(config)](config, [build_network(config.member) for _ in range(config.members)])
        return together
    network: Network = NETWORKS[type(config)](config)
    return network


def shortcuts(config: StoredConfig) -> tuple[str, ...]:
    """What carries location from the input past the bottleneck, in words; empty for a true autoencoder.

    With any of these a network can copy its input, so an objective that does not corrupt the input teaches it nothing.
    """
    return config.shortcuts()
