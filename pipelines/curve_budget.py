"""A label curve for a data set that nobody wrote a configuration for, in the time that there is.

The steps of a pretraining and a fine-tuning are timed, and then the largest comparison is chosen that fits: first enough
steps, then draws, arms and numbers of labels. What is planned is written to a file that can be edited, and run like any
other curve.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from scipy.stats import t as student

from medae.errors import ConfigError
from medae.metrics.statistics import beyond_pool
from pipelines.curve_cells import ROUND

RATES = (2.0e-3, 8.0e-3, 3.2e-2)
TRIED = len(RATES) + 2
"""Rates that an arm's search tries at the most: the best may be at an end of the grid, and beyond that again."""

SHARE = 0.9
"""Of the budget that is planned for: times are estimates."""

SPREAD = {1: 0.012, 2: 0.008, 4: 0.005, 16: 0.003}
"""Standard deviation, between draws, of the difference of two arms' Dice, by number of labels. On hippocampus MR: at 1 and
16 the largest of the four arms of its label curve, at 4 the median of its decoders (0.004) rounded up, at 2 a guess between.
More labels than these have the last."""

NUMBERS = (4, 16, 1, 64)
"""Of labels, in the order in which they are worth their time."""

APART = 8
"""Of so many training subjects one is labelled at the most, or draws would share too many; of few subjects a quarter is."""

OVERLAP = 1.2
"""How much too small the error over draws may be for other training subjects without a word."""

ARMS: dict[str, dict[str, Any]] = {
    "scratch": {},
    "masked": {"encoder": "masked"},
    "scratch_long": {"as_long_as": "masked"},
    "strong": {"set": {"augmentation": {"preset": "strong"}}},
    "mean_teacher": {"set": {"unlabelled": {"kind": "mean_teacher", "twin": False}}},
}
STEPS_OF = {"mean_teacher": 2.0}
"""How much longer than that of scratch a step of an arm takes."""


def in_words(seconds: float) -> str:
    """A length of time: 45 min, 2.5 h."""
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def seconds_of(text: str) -> float:
    """``90m``, ``2h``, ``1.5h``, ``1d`` in seconds. Raises ConfigError for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([mhd])", text.strip())
    if match is None or float(match[1]) == 0:
        raise ConfigError(f"'{text}' is no length of time.", where="--budget", remedy="Write for example 90m, 2h or 1d.")
    return float(match[1]) * {"m": 60, "h": 3600, "d": 86400}[match[2]]


@dataclass(frozen=True)
class Times:
    """Seconds of one process. pretrain, finetune: a training step. rest: of a cell, all that is no training."""

    pretrain: float
    finetune: float
    rest: float


@dataclass(frozen=True)
class Matrix:
    """What is compared: arms, numbers of labels with their draws, steps of a fine-tuning and of the pretraining."""

    arms: tuple[str, ...]
    draws: dict[int, int]
    steps: int
    pretrain_steps: int

    @property
    def search_steps(self) -> int:
        """Of the trainings that look for a rate."""
        return self.steps // 2

    def seconds(self, times: Times) -> float:
        """Of one process, for everything."""
        total = (self.pretrain_steps * times.pretrain + times.rest) if "masked" in self.arms else 0.0
        for arm in self.arms:
            step = times.finetune * STEPS_OF.get(arm, 1.0)
            is_long = "as_long_as" in ARMS[arm]
            if not is_long:  # the trainings that look for its rate are those of scratch
                total += TRIED * (self.search_steps * step + times.rest)
            steps = self._long_steps(times) if is_long else self.steps
            total += sum(self.draws.values()) * (steps * step + times.rest)
        return total

    def chain(self, times: Times) -> float:
        """Seconds of what can only be done one after the other, however many processes there are."""
        most = 0.0
        encoder = self.pretrain_steps * times.pretrain + times.rest
        for arm in self.arms:
            step, is_long = times.finetune * STEPS_OF.get(arm, 1.0), "as_long_as" in ARMS[arm]
            searches = (1 + TRIED - len(RATES)) * (self.search_steps * step + times.rest)
            begins = encoder if is_long or "encoder" in ARMS[arm] else 0.0
            steps = self._long_steps(times) if is_long else self.steps
            most = max(most, begins + searches + steps * step + times.rest)
        return most

    def takes(self, times: Times, jobs: int) -> float:
        """Seconds of so many processes, for everything."""
        return max(self.seconds(times) / jobs, self.chain(times))

    def _long_steps(self, times: Times) -> int:
        """So many from scratch take the time of pretraining and fine-tuning together, see ``Design.steps``."""
        seconds = self.pretrain_steps * times.pretrain + self.steps * times.finetune
        return max(ROUND, round(seconds / times.finetune / ROUND) * ROUND)


def choose(budget: float, times: Times, training: int, jobs: int = 1) -> Matrix:
    """The largest matrix that fits. budget: seconds. training: labelled training subjects.

    Raises ConfigError, with the time that the smallest one needs, if none does.
    """
    chosen: Matrix | None = None
    for matrix in _growing(training):
        if matrix.takes(times, jobs) > SHARE * budget:
            if chosen is None:
                least = matrix.takes(times, jobs) / SHARE
                raise ConfigError(
                    f"The smallest comparison that says anything takes about {in_words(least)}: {describe(matrix)}.",
                    where="--budget",
                    remedy=f"Give it {in_words(least)}, more processes on CPUs (--jobs), a GPU, or a smaller network "
                    "(--set pretrain.set.plan.widths=[16,32,64] --set finetune.set.plan.widths=[16,32,64]).",
                )
            break
        chosen = matrix
    assert chosen is not None
    return chosen


def _growing(training: int) -> Iterator[Matrix]:
    """Matrices, each larger than the one before: what is worth most comes first."""
    fewest = min(NUMBERS[0], max(1, training // 4))
    numbers = [fewest, *(number for number in NUMBERS if number <= training // APART and number != fewest)]
    matrix = Matrix(("scratch", "masked"), {numbers[0]: 3}, 200, 300)
    yield matrix
    for steps, pretrain_steps in ((500, 800),):
        matrix = replace(matrix, steps=steps, pretrain_steps=pretrain_steps)
        yield matrix
    for change in ("draws", "arm", "number", "arm", "more draws", "steps", "number", "arm", "steps", "number"):
        before = matrix
        if change in ("draws", "more draws"):
            draws = 5 if change == "draws" else 8
            matrix = replace(matrix, draws={**matrix.draws, min(matrix.draws): draws})
        elif change == "arm":
            matrix = replace(matrix, arms=tuple(ARMS)[: len(matrix.arms) + 1])
        elif change == "number":
            left = [number for number in numbers if number not in matrix.draws]
            if left:
                most = max(matrix.draws.values()) if left[0] < min(matrix.draws) else 3
                matrix = replace(matrix, draws=dict(sorted({**matrix.draws, left[0]: most}.items())))
        else:
            matrix = replace(matrix, steps=2 * matrix.steps, pretrain_steps=2 * matrix.pretrain_steps)
        if matrix != before:
            yield matrix


def describe(matrix: Matrix) -> str:
    """The matrix in words."""
    draws = ", ".join(f"{draws} draws of {number}" for number, draws in matrix.draws.items())
    return f"{', '.join(matrix.arms)}; {draws} labels; {matrix.steps} steps each"


def resolves(matrix: Matrix, training: int) -> list[str]:
    """How small a difference to scratch each number of labels can show, among all comparisons that the table makes.

    As the table counts it: Student's interval over draws, at the level of Holm's first step. That of the test subjects comes
    on top. Also where draws of labels from so many ``training`` subjects overlap so much that it holds for these alone.
    """
    lines = []
    comparisons = (len(matrix.arms) - 1) * len(matrix.draws)
    among = f" among {comparisons} comparisons" if comparisons > 1 else ""
    for number, draws in matrix.draws.items():
        spread = SPREAD[max(known for known in SPREAD if known <= number)]
        half = float(student.isf(0.025 / comparisons, draws - 1)) * spread / draws**0.5
        labels = f"{number} {'label' if number == 1 else 'labels'}, {draws} draws"
        lines.append(
            f"{labels}: a true difference in Dice of about {half:.3f} would be missed half the time{among}, if draws differ "
            f"as on hippocampus MR ({spread:.3f})."
        )
        if (factor := beyond_pool(number, training, draws)) > OVERLAP:
            lines.append(
                f"{labels}: draws of {number} of {training} training subjects overlap; the intervals are of these subjects, "
                f"and for other ones up to {factor:.1f} times too short."
            )
    return lines


def content_of(matrix: Matrix, name: str, pretrain: dict[str, Any], finetune: dict[str, Any]) -> dict[str, Any]:
    """The curve's configuration. pretrain, finetune: what its stages start from, written out."""
    fit = {"steps": matrix.steps, "epoch_steps": 50, "schedule": {"warmup": matrix.steps // 20}}
    before = {"steps": matrix.pretrain_steps, "epoch_steps": 50, "schedule": {"warmup": matrix.pretrain_steps // 20}}
    smallest = min(matrix.draws, key=lambda number: abs(number - 4))
    return {
        "name": name,
        "pretrain": {"set": pretrain | {"fit": {**pretrain.get("fit", {}), **before}}},
        "finetune": {"set": finetune | {"fit": {**finetune.get("fit", {}), **fit}}},
        "labelled": list(matrix.draws),
        "draws": {str(number): draws for number, draws in matrix.draws.items()},
        "search": {
            "rates": list(RATES),
            "bounds": [RATES[0] / 2 ** (TRIED - len(RATES)), RATES[-1] * 2 ** (TRIED - len(RATES))],
            "labelled": [smallest],
            "set": {"fit": {"steps": matrix.search_steps, "epoch_steps": min(50, matrix.search_steps)}},
        },
        "encoders": {"masked": {}},
        "arms": {name: ARMS[name] for name in matrix.arms},
    }
