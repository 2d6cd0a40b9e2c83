"""The linear probe: a multinomial logistic regression on the frozen features of every level."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from medae.models.base import Network
from medae.models.encoder import Features
from medae.preprocessing.sampling import PatchSampler
from medae.seeding import torch_generator
from medae.training.probes.base import ProbeSettings, Segment, patches

ITERATIONS = 200
LINEAR = {2: "bilinear", 3: "trilinear"}


class LinearProbe(ProbeSettings):
    """What a linear map can read from the encoder as it is. Source: Alain and Bengio 2016.

    voxels: drawn from each patch to fit on, the same number of every label that occurs in it, weighted such that each label
    counts by its volume. penalty: half of it times the squared weights, on features scaled to a standard deviation of 1,
    is added to the mean cross-entropy.
    """

    kind: Literal["linear"] = "linear"
    voxels: int = Field(default=1000, ge=10)
    penalty: float = Field(default=1e-3, gt=0)

    def segmenter(self, network: Network, fitted: PatchSampler, classes: int) -> Segment:
        """The regression over all levels' features, brought to full resolution by linear interpolation."""
        device = next(network.parameters()).device
        rows, answers, weights = [], [], []
        for number, batch in enumerate(patches(fitted, self.patches)):
            truth = batch.target[self.target][0, 0]
            generator = torch_generator(self.seed, "probe voxels", number)
            places, weight = voxels_of_each_label(truth, self.voxels, generator)
            features = frozen(network.encoder, batch.image.to(device))
            rows.append(features_at(features, places, tuple(truth.shape)).double().cpu())
            answers.append(truth[tuple(places.T)])
            weights.append(weight)
        matrix, bias = logistic_regression(torch.cat(rows), torch.cat(answers), torch.cat(weights), classes, self.penalty)
        matrix, bias = matrix.float().to(device), bias.float().to(device)

        def segment(image: Tensor) -> Tensor:
            return linear_map(frozen(network.encoder, image), matrix, bias, tuple(image.shape[2:])).argmax(dim=1)

        return segment


def frozen(encoder: Callable[[Tensor], Features], image: Tensor) -> Features:
    """The features of an image, without gradients. The encoder is in evaluation mode."""
    with torch.no_grad():
        return encoder(image)


def voxels_of_each_label(truth: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Places of about ``count`` voxels of a label map ``[*S]``, as many of every label, and what each stands for.

    Returns int64 ``[n, dims]`` and float64 ``[n]``, the weights, whose sum over a label is its number of voxels: rare
    labels are seen well, and yet the regression's prior is that of the patch.
    """
    flat = truth.flatten()
    labels = flat.unique()
    chosen, weights = [], []
    for label in labels:
        of_label = (flat == label).nonzero().flatten()
        some = of_label[torch.randperm(len(of_label), generator=generator)[: max(1, count // len(labels))]]
        chosen.append(some)
        weights.append(torch.full((len(some),), len(of_label) / len(some), dtype=torch.float64))
    places = torch.stack(torch.unravel_index(torch.cat(chosen), truth.shape), dim=1)
    return places, torch.cat(weights)


def features_at(features: Features, places: Tensor, size: tuple[int, ...]) -> Tensor:
    """The features of all levels at voxels of an image: ``[n, channels of all levels]``.

    places: int64 ``[n, dims]`` in an image of ``size``. The values are those of the levels enlarged to that size by linear
    interpolation, without the work of enlarging them.
    """
    dims = len(size)
    grid = ((2 * places + 1) / torch.tensor(size) - 1).flip(1).float()  # grid_sample counts its axes from the last
    columns = []
    for level in features.levels:
        where = grid.to(level.device).reshape(1, *[1] * (dims - 1), -1, dims)
        # "bilinear" is trilinear in three dimensions
        values = functional.grid_sample(level.float(), where, "bilinear", padding_mode="border", align_corners=False)
        columns.append(values.flatten(2)[0].T)
    return torch.cat(columns, dim=1)


def linear_map(features: Features, matrix: Tensor, bias: Tensor, size: tuple[int, ...]) -> Tensor:
    """Logits ``[B, K, *size]``: the matrix ``[K, channels of all levels]`` applied to the enlarged features.

    Each level is multiplied first and enlarged afterwards, which is the same and saves nearly all memory.
    """
    parts = matrix.split([level.shape[1] for level in features.levels], dim=1)
    total = bias.reshape(1, -1, *[1] * len(size))
    for level, part in zip(features.levels, parts, strict=True):
        scores = torch.einsum("kc,bc...->bk...", part, level.float())
        total = total + functional.interpolate(scores, size=size, mode=LINEAR[len(size)], align_corners=False)
    return total


def logistic_regression(x: Tensor, answers: Tensor, weights: Tensor, classes: int, penalty: float) -> tuple[Tensor, Tensor]:
    """The weighted multinomial logistic regression, with a penalty on the squared weights of standardised features.

    x: float64 ``[n, features]``. answers: int64 ``[n]``. weights: float64 ``[n]``. Returns the matrix ``[K, features]``
    and the bias ``[K]`` for features as they are. The problem is convex: its one solution depends on no learning rate.
    """
    mean, spread = x.mean(dim=0), x.std(dim=0).clamp_min(1e-8)
    x, weights = (x - mean) / spread, weights / weights.sum()
    with torch.enable_grad():
        matrix = torch.zeros(classes, x.shape[1], dtype=x.dtype, requires_grad=True)
        bias = torch.zeros(classes, dtype=x.dtype, requires_grad=True)
        solver = torch.optim.LBFGS([matrix, bias], max_iter=ITERATIONS, tolerance_grad=1e-6, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            solver.zero_grad()
            errors = functional.cross_entropy(x @ matrix.T + bias, answers, reduction="none")
            total = (weights * errors).sum() + penalty / 2 * matrix.square().sum()
            total.backward()
            return total

        solver.step(loss)
    scaled = matrix.detach() / spread
    return scaled, bias.detach() - scaled @ mean
