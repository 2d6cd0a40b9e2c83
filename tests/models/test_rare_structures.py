"""Two structures of a few percent of the image, told apart by brightness alone: an easy task that must not fail by seed."""

from __future__ import annotations

import pytest
import torch

from medae.models.encoder import EncoderConfig
from medae.models.networks import build_network
from medae.models.unet import UNetConfig
from medae.objectives.segmentation import SegmentationConfig
from medae.preprocessing.batch import Batch
from medae.seeding import Draw

SIZE, EDGE, STEPS, RATE = 40, 6, 120, 4e-3


def squares(generator: torch.Generator) -> Batch:
    """Four images of noise, each with a bright square (label 1) and a brighter one (2) at random places."""
    image = 0.15 * torch.randn(4, 1, SIZE, SIZE, generator=generator)
    label = torch.zeros(4, 1, SIZE, SIZE, dtype=torch.long)
    for sample in range(4):
        for value in (1, 2):
            i, j = torch.randint(2, SIZE - EDGE - 2, (2,), generator=generator).tolist()
            image[sample, 0, i : i + EDGE, j : j + EDGE] += 0.4 + 0.6 * value
            label[sample, 0, i : i + EDGE, j : j + EDGE] = value
    return Batch(image, torch.ones(4, 1, dtype=torch.bool), torch.ones_like(label, dtype=torch.bool), {"label": label})


@pytest.mark.parametrize("seed", [0, 2])
@pytest.mark.parametrize(("stem", "widths"), [("space_to_depth", (16, 32)), ("plain", (8, 16, 32))])
def test_both_rare_structures_are_found(stem, widths, seed):
    strides = ((1, 1) if stem == "plain" else (2, 2), *[(2, 2)] * (len(widths) - 1))
    encoder = EncoderConfig(spatial_dims=2, stem=stem, widths=widths, strides=strides, kernels=((3, 3),) * len(widths))
    torch.manual_seed(seed)
    network = build_network(UNetConfig(encoder=encoder, classes=3))
    objective = SegmentationConfig().build(encoder)
    optimiser = torch.optim.AdamW(network.parameters(), lr=RATE)
    generator = torch.Generator().manual_seed(seed)
    for step in range(STEPS):
        optimiser.param_groups[0]["lr"] = RATE * (1 - step / STEPS)
        (loss,) = objective(network, squares(generator), Draw(0, step))
        optimiser.zero_grad()
        loss.total.backward()
        optimiser.step()
    batch = squares(generator)
    with torch.no_grad():
        found, truth = network(batch.image).finest.argmax(1, keepdim=True), batch.target["label"]
    for value in (1, 2):
        dice = 2 * ((found == value) & (truth == value)).sum() / ((found == value).sum() + (truth == value).sum())
        assert dice > 0.7, value
