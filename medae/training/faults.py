"""What can end a training from outside, each in one plain message: memory, disk, loader, signal."""

from __future__ import annotations

import errno
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from safetensors import SafetensorError

from medae.errors import RESUME, TrainingError
from medae.training.checkpoint import latest

FULL = (errno.ENOSPC, errno.EDQUOT)
MEMORY = re.compile(r"out of memory|not enough memory|can't allocate memory|cannot allocate memory|bad_alloc", re.IGNORECASE)


def resume_hint(folder: Path) -> str:
    """How to go on after a stop: the second half of a remedy."""
    path = latest(folder)
    if path is None:
        return "No checkpoint had been written yet: start again."
    return f"The checkpoint of step {int(path.name.partition('-')[2])} is intact: {RESUME}."


def disk_full(error: BaseException) -> bool:
    """Whether an error says that a disk or a quota is full (safetensors reports it as text)."""
    if isinstance(error, OSError):
        return error.errno in FULL
    return isinstance(error, SafetensorError) and any(f"os error {code}" in str(error) for code in FULL)


def memory_exhausted(error: BaseException) -> bool:
    """Whether an error says that memory, of the machine or of the accelerator, did not suffice."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    exhausted = isinstance(error, OSError) and error.errno == errno.ENOMEM
    return exhausted or (isinstance(error, RuntimeError) and MEMORY.search(str(error)) is not None)


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Turn a full disk, exhausted memory or a dead loader process inside into one TrainingError."""
    try:
        yield
    except (OSError, SafetensorError, MemoryError, RuntimeError) as error:
        if disk_full(error):
            what, remedy = "The disk is full.", "Free some space, or train in another folder."
        elif memory_exhausted(error):
            what, remedy = "Memory is exhausted.", "Lower the batch size, the patch size or fit.workers."
        elif "DataLoader worker" in str(error):
            what, remedy = (
                "A process that prepares batches was ended, most often by the system because memory ran out.",
                "Lower fit.workers or the patch size.",
            )
        else:
            raise
        raise TrainingError(what, where=folder, remedy=f"{remedy} {resume_hint(folder)}") from error


def _is_free(handler: Any) -> bool:
    """Whether a signal may be taken: whoever ignores it (nohup) or has an answer of its own (a job's manager) means it."""
    return handler in (signal.SIG_DFL, signal.default_int_handler) or isinstance(
        getattr(handler, "__self__", None), Interrupts
    )


class Interrupts:
    """Within this context Ctrl-C and SIGTERM are noted in ``received``; the second one acts as it always did.

    Only the main thread may handle signals: elsewhere nothing is noted and nothing changes.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._owner = os.getpid()
        self._previous: dict[signal.Signals, Callable[[int, FrameType | None], Any] | int | None] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if _is_free(signal.getsignal(number)):
                    self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _note(self, number: int, _: FrameType | None) -> None:
        if os.getpid() == self._owner:
            self.received = signal.Signals(number)
            self._restore()
        elif number == signal.SIGTERM:  # a loader process forked from ours: Ctrl-C is its parent's to answer
            os._exit(128 + number)

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
