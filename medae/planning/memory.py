"""Amounts of memory in words, and what the rules need to know about the memory of a training."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from medae.plan import Plan

UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
"""K, M, G and T count in 1024s, as Docker and Slurm read them; KB, MB, GB and TB in 1000s. KiB and so on are K and so on."""

GIB = 2**30

RESERVE = 0.1
"""Share of a memory target that is left free for what an allocator cannot reuse."""

WORK_SPACE = GIB // 4
"""Bytes left free for libraries and the allocator; at most 0.17 GiB were found missing, see benchmarks/plan_memory.py."""


@dataclass(frozen=True)
class Estimator:
    """Bytes of the memory of one training step of a plan. subject: what is trained how, in words."""

    bytes: Callable[[Plan], int]
    subject: str


def bytes_of(text: str) -> int:
    """``8G``, ``8GiB``, ``8192M``, ``8GB`` as bytes. Raises ValueError for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?B)?", text.strip(), re.IGNORECASE)
    if match is None or (size := round(float(match[1]) * UNITS[_unit(match[2], match[3])])) < 1:
        raise ValueError(f"'{text}' is no amount of memory: write it as 8G, 8GiB or 8192M")
    return size


def _unit(prefix: str, suffix: str | None) -> str:
    return prefix.upper() + ("B" if prefix and (suffix or "").upper() == "B" else "")


def usable(stated: int) -> int:
    """Bytes that an estimate may come to for a target of so many."""
    return max(int(stated * (1 - RESERVE)) - WORK_SPACE, 0)


def in_words(size: int) -> str:
    """Bytes as GiB, or MiB where that is shorter."""
    return f"{size / GIB:.3g} GiB" if size >= GIB / 10 else f"{size / 2**20:.3g} MiB"
