"""What only shows when the cases of a data set are seen together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from medae.data.case import Case, ImageRef, Manifest
from medae.data.finding import Finding, some_of
from medae.data.inspection import ImageFacts, Inspection
from medae.formats.endings import stem

HOUNSFIELD = -500.0
"""An image with values below is taken for CT; MR has none."""

EIGHT_BIT, WIDE = 255.0, 1000.0
"""Images with whole numbers up to 255 beside images that go beyond 1000 come from different exports."""

FAR = 20.0
"""Times the median of the channel from which an image's brightest voxel stands out."""

COARSE = 3.0
"""Times the median spacing along an axis, or its inverse, from which a case stands out."""

RARE = 0.2
"""Share of empty label maps up to which they are named: where more are empty, scans without findings belong to the set."""

Inspections = Mapping[str, Inspection]


def across_cases(manifest: Manifest, inspections: Inspections) -> Iterator[Finding]:
    """Findings about several cases at once. inspections: by case id, of all cases."""
    yield from _shared_names(manifest)
    yield from _two_partitions(manifest)
    yield from _duplicates(manifest, inspections)
    yield from _absent_channels(manifest)
    for channel in manifest.channels:
        facts = {case.id: found for case in manifest.cases if (found := inspections[case.id].images.get(channel))}
        yield from _ranges(channel, facts)
        yield from _spacings(channel, facts)
    for target, names in manifest.labels.items():
        maps = {case.id: found for case in manifest.cases if (found := inspections[case.id].targets.get(target))}
        yield from _labels(target, names, {case_id: found.labels for case_id, found in maps.items() if found.labels})


def _whole(level_code: str, problem: str, remedy: str, case: str = "") -> Finding:
    return Finding(case, "", "warning", level_code, problem, remedy)


def _shared_names(manifest: Manifest) -> Iterator[Finding]:
    """A warning if file names come in small groups that differ in their last part only, each counted as a subject.

    Names that all begin alike (``scan_001``) say nothing; groups (``0001_left``, ``0001_right``) hint at one person.
    """
    if manifest.source not in ("folder", "msd", "nnunet"):
        return  # the others state their subjects
    groups: dict[str, set[str]] = {}
    for case in manifest.cases:
        name = stem(Path(next(iter(case.images.values())).files[0]))
        if manifest.source == "nnunet":
            name = name.rpartition("_")[0]
        groups.setdefault(name.rpartition("_")[0], set()).add(case.subject)
    shared = sorted(name for name, subjects in groups.items() if name and 2 <= len(subjects) <= 10)
    if len(shared) >= 3:
        yield _whole(
            "subjects",
            f"{len(shared)} groups of files have names that differ in the last part only, but each counts as a subject: "
            f"scans of one person could be in training and in test",
            "State 'subject', a pattern that finds the subject in a file's name.",
        )


def _two_partitions(manifest: Manifest) -> Iterator[Finding]:
    partitions: dict[str, set[str]] = defaultdict(set)
    for case in manifest.cases:
        if isinstance(partition := case.covariates.get("partition"), str):
            partitions[case.subject].add(partition)
    both = sorted(subject for subject, found in partitions.items() if len(found) > 1)
    if both:
        yield _whole(
            "two_partitions",
            f"{len(both)} subjects are in the training folder and in the test folder, such as {both[0]}",
            "Results on that test folder would be too good; medae's own split keeps subjects together.",
        )


def _duplicates(manifest: Manifest, inspections: Inspections) -> Iterator[Finding]:
    """Images with the same voxels, whatever their channels are called, and label maps that are copies.

    Under two subjects one would be trained on and the other tested on. One file that belongs to several cases is no copy.
    """
    images: dict[str, list[tuple[Case, str]]] = defaultdict(list)
    maps: dict[tuple[str, str], list[Case]] = defaultdict(list)
    for case in manifest.cases:
        inspection = inspections[case.id]
        if inspection.has_error:  # left out anyway: it must not take a sound copy with it
            continue
        for name, facts in inspection.images.items():
            images[facts.voxels].append((case, name))
        for name, facts in inspection.targets.items():
            if facts.labels is not None and set(facts.labels) - {0}:
                maps[name, facts.voxels].append(case)
    copies: set[tuple[str, str]] = set()
    for (first, first_name), *others in images.values():
        for case, name in others:
            copies.add((first.id, case.id))
            if _place(first.images[first_name]) == _place(case.images[name]):
                continue
            same = first.subject == case.subject
            origin = f"the case {first.id}" if name == first_name else f"'{first_name}' of the case {first.id}"
            text = f"has the same voxels in '{name}' as {origin}{'' if same else ', of another subject'}"
            remedy = "Keep one of them." if same else "Find out whose scan it is, and keep one of them."
            files = f"{_shown(case.images[name])} and {_shown(first.images[first_name])}"
            yield Finding(case.id, files, "warning" if same else "error", "duplicate", text, remedy, f"image {name}")
    for (name, _), (original, *later) in maps.items():
        for case in later:
            shared = original.subject == case.subject and _file(original, name) == _file(case, name)
            if not shared and (original.id, case.id) not in copies:
                text = f"has the same label map '{name}' as the case {original.id}, for another image"
                yield _whole("duplicate_labels", text, "Find the right label map.", case.id)


def _shown(ref: ImageRef) -> str:
    """For the screen."""
    return some_of(ref.files)


def _file(case: Case, target: str) -> tuple[str, ...]:
    """The files of a label map; several images of one subject may have one and the same."""
    ref = case.targets[target]
    return ref.files if isinstance(ref, ImageRef) else ()


def _place(ref: ImageRef) -> tuple[tuple[str, ...], int | None]:
    return ref.files, ref.component


def _absent_channels(manifest: Manifest) -> Iterator[Finding]:
    for channel in manifest.channels if len(manifest.channels) > 1 else ():
        without = [case.id for case in manifest.cases if channel not in case.images]
        if without:
            text = f"{len(without)} of {len(manifest.cases)} cases lack the channel '{channel}', such as {without[0]}"
            yield _whole("channel_absent", text, "Add the images, or leave the channel out of the plan.")


def _ranges(channel: str, facts: Mapping[str, ImageFacts]) -> Iterator[Finding]:
    if len(facts) < 3:
        return
    eight_bit = [case_id for case_id, found in facts.items() if found.lowest >= 0 and found.highest <= EIGHT_BIT]
    wide = max(found.highest for found in facts.values())
    if 0 < len(eight_bit) < len(facts) and wide > WIDE:
        yield _whole(
            "ranges",
            f"{len(eight_bit)} of {len(facts)} images of '{channel}' have values from 0 to 255, others go up to {wide:g}",
            "MR is scaled scan by scan, so that this does no harm; CT has to be in Hounsfield units.",
        )
    median = float(np.median([found.highest for found in facts.values()]))
    for case_id, found in facts.items():
        if found.highest > FAR * median > 0:
            text = f"'{channel}' goes up to over {FAR:g} times the median of all cases ({median:g})"
            yield _whole(
                "outlier", text, "Look at it: another scanner's scale does no harm, a single bright voxel may.", case_id
            )
    ct = [case_id for case_id, found in facts.items() if found.lowest < HOUNSFIELD]
    if 0 < len(ct) < len(facts) and min(len(ct), len(facts) - len(ct)) <= RARE * len(facts):
        few = ct if 2 * len(ct) < len(facts) else [case_id for case_id in facts if case_id not in ct]
        kind = (
            "look like CT (values below -500), the others do not" if few == ct else "have no value below -500, the others do"
        )
        text = f"{len(few)} of {len(facts)} images of '{channel}' {kind}: {', '.join(few[:3])}"
        yield _whole("mixed_modality", text, "Make sure that they are of one modality.")


def _spacings(channel: str, facts: Mapping[str, ImageFacts]) -> Iterator[Finding]:
    if len(facts) < 3:
        return
    typical = np.median([sorted(found.spacing) for found in facts.values()], axis=0)
    for case_id, found in facts.items():
        ratio = np.array(sorted(found.spacing)) / typical
        if ratio.max() > COARSE or ratio.min() < 1 / COARSE:
            text = f"'{channel}' has voxels of {_mm(found.spacing)}, the median case of {_mm(typical.tolist())}"
            yield _whole("spacing_outlier", text, "Make sure that its spacing is right.", case_id)


def _mm(sizes: Sequence[float]) -> str:
    return " x ".join(f"{size:.3g}" for size in sizes) + " mm"


def _labels(target: str, names: Mapping[int, str], counts: Mapping[str, Mapping[int, int]]) -> Iterator[Finding]:
    if not counts:
        return
    seen = {value for found in counts.values() for value in found}
    absent = [f"{value} ({name})" for value, name in names.items() if value not in seen]
    if absent:
        text = f"no label map has the declared label {', '.join(absent)} of '{target}'"
        yield _whole("label_absent", text, "Correct the declared labels, or find the label maps that have it.")
    empty = [case_id for case_id, found in counts.items() if not set(found) - {0}]
    if 0 < len(empty) <= RARE * len(counts):
        for case_id in empty:
            yield _whole("empty_labels", f"its label map '{target}' is empty", "Make sure that nothing is there.", case_id)
