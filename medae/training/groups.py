"""Parameter groups: which weights each loss trains, and how deep in the encoder they lie."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from medae.errors import TrainingError
from medae.training.config import FitConfig

MODEL = "model"
ENCODER = "encoder."
LEVEL = re.compile(r"encoder\.levels\.(\d+)\.")


def named_groups(model: nn.Module, objective: nn.Module) -> dict[str, dict[str, nn.Parameter]]:
    """The parameters to train by group and name.

    ``model`` holds the network's, and those of the objective that no other group claims (a mask token, say). An
    objective that trains networks of its own (a discriminator) names them by a method ``parameter_groups() ->
    Mapping[str, nn.Module]``, each a part of itself; a loss refers to them by ``Loss.parameters``.
    Parameters that do not require gradients are in no group.
    """
    owned: Mapping[str, nn.Module] = getattr(objective, "parameter_groups", dict)()
    groups = {MODEL: {f"network.{name}": p for name, p in model.named_parameters() if p.requires_grad}}
    claimed: set[int] = set()
    for group, module in owned.items():
        groups[group] = {name: p for name, p in module.named_parameters() if p.requires_grad}
        claimed |= {id(p) for p in groups[group].values()}
    rest = objective.named_parameters()
    groups[MODEL] |= {f"objective.{name}": p for name, p in rest if p.requires_grad and id(p) not in claimed}
    return groups


def depth_of(name: str, levels: int) -> int:
    """How deep in the encoder a parameter or module lies, seen from the decoder: 0 outside, 1 at the coarsest level."""
    if not name.startswith(ENCODER):
        return 0
    found = LEVEL.match(name)
    return levels - int(found[1]) if found else 1


def depths(model: nn.Module) -> dict[str, int]:
    """The depth of each of a network's parameters, see ``depth_of``. Raises TrainingError if it has no encoder."""
    names = [name for name, _ in model.named_parameters()]
    if not any(name.startswith(ENCODER) for name in names):
        raise TrainingError(
            "A network without an encoder cannot be tuned as a pretrained one.",
            where="tuning",
            remedy=f"Leave it out. The network's parts: {', '.join(sorted({name.split('.')[0] for name in names}))}.",
        )
    levels = encoder_levels(model)
    return {name: depth_of(name, levels) for name in names}


def encoder_levels(model: nn.Module) -> int:
    """How many levels a network's encoder has; 1 if it has no such parts."""
    found = [LEVEL.match(name) for name, _ in model.named_parameters()]
    return 1 + max((int(match[1]) for match in found if match), default=0)


def build_optimiser(parameters: Mapping[str, nn.Parameter], depth: Mapping[str, int], config: FitConfig) -> Optimizer:
    """AdamW or SGD over named parameters; norms and biases (one axis) are spared weight decay.

    depth: in the encoder by name, 0 where absent; it is kept in each torch group under ``depth``.
    """
    buckets: dict[tuple[int, float], list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        decay = config.weight_decay if parameter.ndim > 1 else 0.0
        buckets.setdefault((depth.get(name, 0), decay), []).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": members, "depth": depth, "weight_decay": decay} for (depth, decay), members in buckets.items()
    ]
    if config.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=config.rate, momentum=config.momentum, nesterov=config.momentum > 0)
    return torch.optim.AdamW(groups, lr=config.rate)


def set_rate(optimiser: Optimizer, rate: Callable[[int], float]) -> None:
    """Set the learning rates of a step, by depth."""
    for group in optimiser.param_groups:
        group["lr"] = rate(group["depth"])


def optimiser_tensors(optimiser: Optimizer, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """An optimiser's state as ``<parameter name>|<state name>`` -> tensor."""
    return {
        f"{name}|{key}": value
        for name, parameter in parameters.items()
        for key, value in optimiser.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def load_optimiser(optimiser: Optimizer, parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]) -> None:
    """Put back what ``optimiser_tensors`` gave.

    Moments get their parameter's memory layout again, as the optimiser itself makes them: an elementwise kernel may
    round differently over another layout, and a resumed training has to end in the same bits. Step counts stay on
    the CPU, where the optimiser keeps them.
    """
    for full_name, value in tensors.items():
        name, _, key = full_name.rpartition("|")
        parameter = parameters[name]
        scalar = key == "step"
        optimiser.state[parameter][key] = value if scalar else torch.empty_like(parameter, requires_grad=False).copy_(value)
