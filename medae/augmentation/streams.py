"""Augmentation of a batch and of the streams that it carries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from medae.preprocessing.batch import Batch
from medae.preprocessing.streams import stream_draw
from medae.seeding import Draw


def augment_streams(augment: Callable[[Batch, Draw], Batch]) -> Callable[[Batch, Draw], Batch]:
    """The same augmentation for a batch and, with draws of their own, for the streams beside it.

    The batch itself comes out as if it were alone.
    """

    def every(batch: Batch, draw: Draw) -> Batch:
        streams = {name: augment(other, stream_draw(draw, batch, name)) for name, other in batch.streams.items()}
        return replace(augment(batch, draw), streams=streams)

    return every
