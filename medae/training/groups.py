"""Parameter groups: which weights each loss trains, at which share of the learning rate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from medae.errors import TrainingError
from medae.training.config import FitConfig

MODEL = "model"


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


def rate_scales(model: nn.Module, scales: Mapping[str, float]) -> dict[str, float]:
    """The learning rate's multiplier of each of a network's parameters, 1 unless a prefix of its name is given.

    scales: by prefix, e.g. ``{"encoder.": 0.1}``; the longest that fits counts, 0 freezes.
    Raises TrainingError for a negative multiplier or a prefix that fits no parameter.
    """
    names = [name for name, _ in model.named_parameters()]
    for prefix, scale in scales.items():
        if scale < 0 or not any(name.startswith(prefix) for name in names):
            tops = sorted({name.split(".")[0] for name in names})
            raise TrainingError(
                f"The learning rate of '{prefix}' cannot be multiplied by {scale}.",
                where="rate_scale",
                remedy=f"Give a multiplier of at least 0 and the beginning of a parameter's name: {', '.join(tops)}.",
            )
    return {
        name: scales[max(fits, key=len)] if (fits := [prefix for prefix in scales if name.startswith(prefix)]) else 1.0
        for name in names
    }


def build_optimiser(parameters: Mapping[str, nn.Parameter], scales: Mapping[str, float], config: FitConfig) -> Optimizer:
    """AdamW or SGD over named parameters; norms and biases (one axis) are spared weight decay.

    scales: multiplier by name, 1 where absent; it is kept in each torch group under ``scale``.
    """
    buckets: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        decay = config.weight_decay if parameter.ndim > 1 else 0.0
        buckets.setdefault((scales.get(name, 1.0), decay), []).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": members, "scale": scale, "weight_decay": decay} for (scale, decay), members in buckets.items()
    ]
    if config.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=config.rate, momentum=config.momentum, nesterov=config.momentum > 0)
    return torch.optim.AdamW(groups, lr=config.rate)


def set_rate(optimiser: Optimizer, rate: float) -> None:
    """Set the learning rate of a step, scaled by group."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group["scale"]


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
