"""Structures to be learnt, put together from the values of a data set's label maps.

An atlas has a hundred values, often with gaps between them; a segmenter learns a few structures, numbered 1, 2, 3 and so on.
nnU-Net calls the same regions.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import StrictInt

from medae.data.case import Case, ImageRef, Manifest
from medae.errors import ConfigError
from medae.formats import LARGEST_LABEL

Values = StrictInt | tuple[StrictInt, ...]


def check_structures(structures: Mapping[str, Values]) -> None:
    """Raise ValueError, in plain words, for a value that is background, no label value, or in two structures."""
    owner: dict[int, str] = {}
    for name, values in structures.items():
        if not name.strip() or name == "background":
            raise ValueError(f"'{name}' is no name for a structure: background is what no structure has")
        if not (each := values_of(values)):
            raise ValueError(f"'{name}' has no value: name those of the label map that belong to it")
        for value in each:
            if not 0 < value <= LARGEST_LABEL:
                raise ValueError(
                    f"'{name}' has the value {value}: label values are 1 to {LARGEST_LABEL}, and 0 is background"
                )
            if value in owner:
                raise ValueError(
                    f"the value {value} is twice in '{name}'"
                    if owner[value] == name
                    else f"the value {value} belongs to '{owner[value]}' and to '{name}': structures do not overlap"
                )
            owner[value] = name


def values_of(values: Values) -> tuple[int, ...]:
    """The values of a structure, one or several."""
    return (values,) if isinstance(values, int) else values


def with_structures(manifest: Manifest, structures: Mapping[str, Values]) -> Manifest:
    """The manifest with label maps in which the structures are 1, 2, 3 in their order and all else is background.

    Raises ConfigError if there is no label map, or more than one kind of them.
    """
    targets = sorted({name for case in manifest.cases for name, ref in case.targets.items() if _is_label_map(ref)})
    if len(targets) != 1:
        there = f"several label maps ({', '.join(targets)})" if targets else "no label map"
        raise ConfigError(
            f"The data set has {there}; structures are put together from one.",
            where="data.structures",
            remedy="Open it so that one is left (such as by data.label_pattern or a table), or leave structures out.",
        )
    (target,) = targets
    groups = tuple(values_of(values) for values in structures.values())

    def regrouped(case: Case) -> Case:
        ref = case.targets.get(target)
        if not isinstance(ref, ImageRef):
            return case
        return case.model_copy(update={"targets": {**case.targets, target: ref.model_copy(update={"groups": groups})}})

    names = {0: "background"} | dict(enumerate(structures, start=1))
    cases = tuple(regrouped(case) for case in manifest.cases)
    return manifest.model_copy(update={"cases": cases, "labels": {**manifest.labels, target: names}})


def _is_label_map(ref: object) -> bool:
    return isinstance(ref, ImageRef) and ref.kind == "labels"
