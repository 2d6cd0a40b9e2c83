"""Streams: the main one is untouched by what is drawn beside it; each draws for itself, on every process."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from medae.augmentation.augment import Augmentation, AugmentationConfig
from medae.augmentation.streams import augment_streams
from medae.preprocessing.batch import Batch
from medae.preprocessing.streams import Streams, stream_draw
from medae.seeding import Draw, torch_generator


class Sampler:
    """Batches of ``size`` patches, a function of seed, step and place."""

    def __init__(self, size, seed):
        self.batch_size, self.seed, self.workers = size, seed, None

    def batches(self, start, stop, process=0, processes=1, workers=0):
        self.workers = workers
        share = self.batch_size // processes
        for step in range(start, stop):
            places = range(process * share, (process + 1) * share)
            rows = [torch.randn((1, 6, 6), generator=torch_generator(self.seed, step, place)) for place in places]
            image = torch.stack(rows)
            yield Batch(image, torch.ones(share, 1, dtype=torch.bool), torch.ones_like(image, dtype=torch.bool))


def streams():
    return Streams(Sampler(4, 1), {"unlabelled": Sampler(6, 2)})


def test_the_main_stream_is_what_it_is_alone():
    alone, beside = list(Sampler(4, 1).batches(2, 5)), list(streams().batches(2, 5))
    assert streams().batch_size == 4
    assert len(beside) == 3
    for one, other, unlabelled in zip(alone, beside, Sampler(6, 2).batches(2, 5), strict=True):
        assert torch.equal(one.image, other.image)
        assert not one.streams and torch.equal(other.streams["unlabelled"].image, unlabelled.image)


def test_the_workers_are_shared_out():
    found = streams()
    list(found.batches(0, 1, workers=5))
    assert (found.main.workers, found.beside["unlabelled"].workers) == (3, 2)
    list(found.batches(0, 1, workers=1))
    assert (found.main.workers, found.beside["unlabelled"].workers) == (1, 1), "a stream without one holds up the steps"
    list(found.batches(0, 1, workers=0))
    assert (found.main.workers, found.beside["unlabelled"].workers) == (0, 0)


@pytest.mark.parametrize("processes", [1, 2])
def test_augmentation_draws_by_place_in_the_streams_own_batch(processes):
    """Two processes augment as one does; the labelled batch as if there were no other."""
    augment = Augmentation(AugmentationConfig(flip=(0.5, 0.5)), 2)
    every = augment_streams(augment)
    (whole,) = streams().batches(0, 1)
    expected = every(whole, Draw(0, 0))
    parts = []
    for process in range(processes):
        (part,) = streams().batches(0, 1, process, processes)
        parts.append(every(part, Draw(0, 0, first=process * len(part))))
    assert torch.equal(torch.cat([part.image for part in parts]), expected.image)
    own = [part.streams["unlabelled"].image for part in parts]
    assert torch.equal(torch.cat(own), expected.streams["unlabelled"].image)
    assert torch.equal(expected.image, augment(replace(whole, streams={}), Draw(0, 0)).image)


def test_the_streams_draws_are_apart_from_the_main_ones():
    (whole,) = streams().batches(0, 1)
    draw = stream_draw(Draw(0, 0), whole, "unlabelled")
    assert not torch.equal(draw.uniform(1), Draw(0, 0).uniform(1))


def test_a_batch_takes_its_streams_along():
    (whole,) = streams().batches(0, 1)
    moved = whole.to("meta").streams["unlabelled"]
    assert moved.image.device.type == moved.mask.device.type == "meta"
    laid_out = whole.laid_out(torch.channels_last).streams["unlabelled"].image
    assert laid_out.is_contiguous(memory_format=torch.channels_last)


def test_the_first_samples_of_a_batch_are_augmented_as_with_the_others():
    augment = Augmentation(AugmentationConfig(preset="strong", noise={"probability": 1.0}), 2)
    (whole,) = streams().batches(0, 1)
    few = whole.first(3)
    assert len(few) == 3 and not few.streams
    assert torch.equal(augment(few, Draw(0, 0)).image, augment(whole, Draw(0, 0)).image[:3])
    assert len(whole.first(9)) == len(whole)
