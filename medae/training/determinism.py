"""The same bits in every run, as far as the device allows."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

import torch

REPORT = re.compile(r"(\S+) does not have a deterministic implementation")


@contextmanager
def deterministic(enabled: bool, device: torch.device) -> Iterator[set[str]]:
    """Deterministic algorithms inside, the previous settings afterwards.

    Yields the set of operations that turned out to have no deterministic form; it fills while training. Off the CPU
    such an operation is allowed (backward passes of 3D pooling and of linear interpolation have none on CUDA); on
    the CPU it is an error of ours.
    """
    found: set[str] = set()
    if not enabled:
        yield found
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    fill = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it once, before its first use
    torch.use_deterministic_algorithms(True, warn_only=device.type != "cpu")
    torch.backends.cudnn.benchmark = False
    # a debugging aid that costs a pass over every new tensor
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        with _collecting(found):
            yield found
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.benchmark = benchmark
        torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]


@contextmanager
def _collecting(found: set[str]) -> Iterator[None]:
    """Take torch's warnings about such operations out of the stream of warnings and note their names."""
    with warnings.catch_warnings():
        warnings.filterwarnings("always", message=".*does not have a deterministic implementation")
        show = warnings.showwarning

        def note(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> Any:
            match = REPORT.search(str(message))
            if match is None:
                return show(message, category, filename, lineno, file, line)
            return found.add(match.group(1))

        warnings.showwarning = note
        yield
