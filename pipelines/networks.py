"""From what a configuration says of the network, and the plan, to the network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from medae.config import Config, to_dict, validate
from medae.errors import ConfigError
from medae.models.networks import Network, NetworkConfig, build_network
from medae.objectives.registry import SEGMENTERS
from medae.plan import Plan
from medae.seeding import seed_for

OF_THE_PLAN = ("spatial_dims", "in_channels", "slices", "stem", "widths", "strides", "kernels", "downsampling")

NetworkChoice = dict[str, Any]
"""The keys of a NetworkConfig, less those of the encoder that the plan decides."""


class _Chosen(Config):
    network: NetworkConfig


def network_config(choice: NetworkChoice, plan: Plan, classes: int | None = None) -> NetworkConfig:
    """The network's configuration: the choice, with the encoder's shape, channels and classes filled in.

    Raises ConfigError that names the keys that do not fit.
    """
    given = choice.get("encoder", {})
    if not isinstance(given, Mapping):
        raise ConfigError(
            f"The encoder is a set of keys, not {given!r}.", where="network.encoder", remedy="Write it as {norm: batch}."
        )
    encoder = dict(given)
    if decided := sorted(set(encoder) & set(OF_THE_PLAN)):
        raise ConfigError(
            f"The plan decides the encoder's {', '.join(decided)}.", where="network.encoder", remedy="Set them under 'plan'."
        )
    space = plan.space
    seen = {"spatial_dims": space.spatial_dims, "in_channels": len(space.inputs), "slices": space.slices}
    encoder |= to_dict(plan.network) | seen
    content = {**choice, "encoder": encoder}
    if classes is not None and choice.get("kind") in SEGMENTERS:
        content["classes"] = classes
    for part in ("bottleneck", "latent"):
        if isinstance(choice.get(part), Mapping) and choice[part].get("kind") == "dense":
            content[part] = {"input_size": plan.sampling.patch, **choice[part]}
    return validate(_Chosen, {"network": content}).network


def fits_some(check: Callable[[Plan], object], plans: Iterable[Plan]) -> None:
    """Try a check against the plans that a configuration may get, before any scan is read.

    Raises the ConfigError of the first, which is the likeliest, if none passes. What passes for some of them only has to be
    checked again when the plan is made.
    """
    first: ConfigError | None = None
    for plan in plans:
        try:
            check(plan)
        except ConfigError as error:
            first = first or error
        else:
            return
    if first is not None:
        raise first


def seeded_network(config: NetworkConfig, seed: int) -> Network:
    """The network with its initial weights drawn from the seed; torch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(seed, "initial weights"))
        return build_network(config)


def device_of(choice: str) -> torch.device:
    """``auto`` is CUDA where there is one. Raises ConfigError if CUDA is asked for and not there."""
    if choice == "cuda" and not torch.cuda.is_available():
        raise ConfigError("There is no CUDA device.", where="device", remedy="Use device auto or cpu.")
    return torch.device("cuda" if choice != "cpu" and torch.cuda.is_available() else "cpu")
