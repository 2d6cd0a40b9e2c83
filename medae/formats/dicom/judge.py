"""The verdict on a series: which volumes it holds and what should be known about them, or why it is not read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from medae.formats.dicom.frames import Slice
from medae.formats.dicom.headers import Header
from medae.formats.dicom.kinds import is_derived, is_localiser, is_swapped, refusal
from medae.formats.dicom.phases import phases_of, without_copies
from medae.formats.dicom.pixels import content_of
from medae.formats.dicom.problem import Problem
from medae.formats.dicom.stack import Stack, arrange, unstackable


@dataclass(frozen=True)
class Rules:
    """What is done with series that can be read in more than one way.

    phases: of a series with several volumes, none, the ``first``, or ``all``. tilt: bring tilted slices to an ``upright``
    grid, or refuse them. resample_slices: bring slices at uneven distances, and those with gaps, to even ones. derived:
    keep or refuse images that were computed from others.
    """

    phases: Literal["refuse", "first", "all"] = "refuse"
    tilt: Literal["upright", "refuse"] = "upright"
    resample_slices: bool = False
    derived: Literal["keep", "refuse"] = "keep"


class Verdict(NamedTuple):
    """volumes: one a phase, none if the series is not read. problem: why it is not. warnings: what was done to it."""

    volumes: tuple[Stack, ...] = ()
    problem: Problem | None = None
    warnings: tuple[Problem, ...] = ()


def judge(headers: Sequence[Header], rules: Rules) -> Verdict:
    """The verdict on the files of one series. Reads pixels of slices that seem to be there twice, nothing else."""
    scouts = [header for header in headers if is_localiser(header)]
    rest = [header for header in headers if not is_localiser(header)]
    if not rest:
        return Verdict(problem=Problem("localiser", "is a localiser, a scout to plan others by", "Leave it out."))
    problem = refusal(headers if is_swapped(headers) else rest)
    slices = [item for header in rest for item in header.slices]
    problem = problem or unstackable(slices)
    if problem is not None:
        return Verdict(problem=problem)
    warnings = []
    if scouts:
        text = f"holds {len(scouts)} localiser images beside its slices; they are left out"
        warnings.append(Problem("localiser-within", text, "Nothing to do."))
    if any(map(is_derived, rest)):
        text = "is computed from other images (DERIVED or SECONDARY)"
        if rules.derived == "refuse":
            return Verdict(problem=Problem("derived", text, "Say 'derived: keep' to take it."))
        warnings.append(Problem("derived", f"{text} and taken as it is", "Say 'derived: refuse' to leave it out."))
    kept, copies = without_copies(slices, content_of)
    if copies:
        text = f"holds {copies} slices twice, with the same contents; each is taken once"
        warnings.append(Problem("copies", text, "Nothing to do, or remove the copies."))
    phases = phases_of(kept)
    if phases is None:
        text = "has several slices in one place, and nothing in the headers tells which belong together"
        return Verdict(problem=Problem("duplicate-slices", text, "Export each volume as a series of its own."))
    volumes = phases.volumes
    if len(volumes) > 1:
        problem = _several(len(volumes), phases.by, rest, rules)
        if problem is not None:
            return Verdict(problem=problem)
        text = f"holds {len(volumes)} volumes, told apart by {phases.by}"
        if rules.phases == "first":
            warnings.append(Problem("multi-phase", f"{text}; the first is taken", "Say 'phases: all' to take all."))
            volumes = volumes[:1]
        else:
            warnings.append(Problem("multi-phase", f"{text}; all are taken", "Say 'phases: first' to take one."))
    return _stacked(volumes, rules, warnings)


def _several(count: int, by: str, headers: Sequence[Header], rules: Rules) -> Problem | None:
    """Why a series with several volumes is not read, None if it is."""
    text = f"holds {count} volumes, told apart by {by}"
    if any(len(header.slices) > 1 for header in headers):
        return Problem("multi-phase", f"{text}, within one file", "Export each volume as a series of its own.")
    if rules.phases == "refuse":
        return Problem("multi-phase", text, "Say 'phases: first' or 'phases: all', or export each as a series of its own.")
    return None


def _stacked(volumes: Sequence[Sequence[Slice]], rules: Rules, warnings: list[Problem]) -> Verdict:
    stacks: list[Stack] = []
    for slices in volumes:
        stack = arrange(slices)
        problem = stack if isinstance(stack, Problem) else unreadable_grid(stack, rules)
        if problem is not None:
            return Verdict(problem=problem)
        assert isinstance(stack, Stack)
        stacks.append(stack)
        for notice in resampling(stack):
            if notice not in warnings:
                warnings.append(notice)
    return Verdict(tuple(stacks), warnings=tuple(warnings))


def unreadable_grid(stack: Stack, rules: Rules) -> Problem | None:
    """Why a stack is not read under the rules, None if it is."""
    remedy = "Export all slices, or say 'resample_slices: true'; what lies between slices is then interpolated."
    if stack.spacing == "missing" and not rules.resample_slices:
        return Problem("missing-slices", f"lacks {stack.absent} slices between its first and its last", remedy)
    if stack.spacing == "uneven" and not rules.resample_slices:
        text = f"has slices at uneven distances, up to {stack.apart:.3g} mm from an even grid"
        return Problem("uneven-slices", text, remedy)
    if stack.is_tilted and rules.tilt == "refuse":
        text = f"is tilted: its slices are shifted against each other by {stack.tilt:.3g} degrees"
        return Problem("tilted", text, "Say 'tilt: upright' to resample it to an upright grid.")
    return None


def resampling(stack: Stack) -> list[Problem]:
    """What is resampled when a stack is read."""
    found = []
    if stack.spacing != "even":
        what = f"lacks {stack.absent} slices" if stack.spacing == "missing" else "has slices at uneven distances"
        text = f"{what}; it is interpolated to even ones"
        found.append(Problem("resampled-slices", text, "Say 'resample_slices: false' to leave it out."))
    if stack.is_tilted:
        text = f"is tilted by {stack.tilt:.3g} degrees and resampled to an upright grid"
        found.append(Problem("tilted", text, "Say 'tilt: refuse' to leave it out."))
    return found
