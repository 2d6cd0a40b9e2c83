"""Several named streams of patches in one training, each with its own draws."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from medae.preprocessing.batch import Batch
from medae.preprocessing.sampling import PatchSampler
from medae.seeding import Draw


class Streams:
    """The batches of a main stream, each carrying those that other streams draw in the same step.

    The main stream's batches are those that it gives alone: what is drawn beside it changes nothing in them. Give each
    stream a sampler of another seed, or they take the same places of their cases.
    """

    def __init__(self, main: PatchSampler, beside: Mapping[str, PatchSampler]) -> None:
        self.main = main
        self.beside = dict(beside)

    @property
    def batch_size(self) -> int:
        """Samples of the main stream in a step, over all processes."""
        return self.main.batch_size

    def batches(self, start: int, stop: int, process: int = 0, processes: int = 1, workers: int = 0) -> Iterator[Batch]:
        """The batches of the steps from start to before stop; the streams share out the workers, the main one last.

        With any workers, each stream has one at least. Raises the errors of ``PatchSampler.batches``.
        """
        share, rest = divmod(workers, 1 + len(self.beside))
        one = max(share, min(workers, 1))
        others = [sampler.batches(start, stop, process, processes, one) for sampler in self.beside.values()]
        for batch, *found in zip(self.main.batches(start, stop, process, processes, share + rest), *others, strict=True):
            yield replace(batch, streams=dict(zip(self.beside, found, strict=True)))


def stream_draw(draw: Draw, batch: Batch, name: str) -> Draw:
    """The random numbers of a stream's samples: apart from the main stream's, by place in the stream's global batch.

    draw: of the main stream, whose local batch is ``batch``; every process has the same share of every stream.
    """
    return replace(draw.scoped(name), first=draw.first // len(batch) * len(batch.streams[name]))
