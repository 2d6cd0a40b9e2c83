"""Parts of an encoder that are left as they are for a while."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import nn

from medae.training.groups import depth_of, encoder_levels


class Stillness:
    """Keeps parts of an encoder as they are while their share of the rate is 0.

    A still weight takes no gradient, and so neither weight decay nor a moment; a still batch norm keeps its statistics, and
    normalises by them. depths: by parameter of the model; empty for a model that is trained as a whole.
    """

    def __init__(self, model: nn.Module, depths: Mapping[str, int]) -> None:
        self._weights: dict[int, list[nn.Parameter]] = {}
        self._norms: dict[int, list[nn.Module]] = {}
        for name, parameter in model.named_parameters():
            if depths.get(name, 0) and parameter.requires_grad:
                self._weights.setdefault(depths[name], []).append(parameter)
        levels = encoder_levels(model)
        for name, module in model.named_modules():
            if getattr(module, "running_mean", None) is not None:
                self._norms.setdefault(depth_of(name, levels), []).append(module)
        self._still: dict[int, bool] = {}

    def forget(self) -> None:
        """Say that all modules were put into training mode."""
        self._still = {}

    def apply(self, is_still: Callable[[int], bool]) -> None:
        """Let the depths for which ``is_still`` holds be still, and the others learn."""
        for depth, weights in self._weights.items():
            still = is_still(depth)
            if self._still.get(depth) == still:
                continue
            for weight in weights:
                weight.requires_grad_(not still)
            for norm in self._norms.get(depth, ()):
                norm.train(not still)
            self._still[depth] = still
