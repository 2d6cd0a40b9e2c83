"""Who is for what in a detection: normal scans to learn from and to calibrate on, test scans, and those of a diagnosis."""

from __future__ import annotations

from medae.anomaly.calibration import FEWEST
from medae.data.case import Case, ImageRef, Manifest
from medae.errors import ConfigError, DataError
from pipelines.apart import keep_apart
from pipelines.data import Dataset
from pipelines.detect_config import Config
from pipelines.detect_diagnosis import diagnosed, references
from pipelines.segmenting import reference, with_target


def sides(
    config: Config, dataset: Dataset, known: dict[str, bool] | None = None
) -> tuple[dict[str, Manifest], Manifest, Manifest | None]:
    """The normal scans that are learnt from and that thresholds are set on, the test scans, and those of a diagnosis.

    known: by case, whether it is normal; takes in what is found, for splits of the same data set that are asked for later.
    Raises DataError and ConfigError if the split does not give them.
    """
    known = {} if known is None else known
    split = dataset.split
    keep_apart(
        {
            "training": dataset.subset(split.train),
            "validation": dataset.subset(split.validation),
            "test": dataset.subset(split.test),
        }
    )
    learning = dataset.subset(split.train)
    if config.model is None:
        learning = _normal(learning, config, known)
    elif learning.cases:  # only baselines learn from them
        learning = learning.select(lambda case: _is_normal(learning, case, config, known))
    cohort = {
        "train": learning,
        "validation": _normal(dataset.subset(split.validation), config, known),
    }
    test = _scored(dataset.subset(split.test), config)
    enough_to_learn_scores(cohort["validation"], config)
    examined = None
    if config.diagnosis is not None:
        examined = diagnosed(test, config.target, config.normals)
        references(examined, config.diagnosis)
    return cohort, test, examined


def enough_to_learn_scores(calibration: Manifest, config: Config) -> None:
    """Raises ConfigError if a scan's score is to be learnt from too few normal subjects."""
    subjects = {case.subject for case in calibration.cases}
    if config.scoring.scan_score.kind == "learned" and len(subjects) < FEWEST:
        raise ConfigError(
            f"{len(subjects)} normal validation subjects do not say how much normal scans differ.",
            where="scoring.scan_score",
            remedy=f"Give {FEWEST} or more (split.validation), or take kind: top.",
        )


def _scored(manifest: Manifest, config: Config) -> Manifest:
    """The scans that take part: those with a label map of lesions, or all if there is to be none. Raises DataError."""
    if config.target is not None:
        return with_target(manifest, config.target)
    if not manifest.cases:
        raise DataError(
            "A part of the split has no subject.", where="split", remedy="Give test and validation at least one subject."
        )
    return manifest


def _normal(manifest: Manifest, config: Config, known: dict[str, bool]) -> Manifest:
    """The scans that normal anatomy is learnt from: all of them when slices are left out, else those without lesion."""
    scans, target = _scored(manifest, config), config.target
    if target is None or config.normals == "lesion_free_slices":
        return scans
    kept = scans.select(lambda case: _is_normal(scans, case, config, known))
    if not kept.cases:
        raise DataError(
            f"None of {len(scans.cases)} scans is without a lesion.",
            where="normals",
            remedy="Add normal scans, or use normals: lesion_free_slices with a plan of slices.",
        )
    return kept


def _is_normal(manifest: Manifest, case: Case, config: Config, known: dict[str, bool]) -> bool:
    """Whether a case takes part in what is normal: all of its slices, or those without a lesion. known: see ``sides``."""
    if config.target is None:
        return True
    if not isinstance(case.targets.get(config.target), ImageRef):
        return False
    if config.normals == "lesion_free_slices":
        return True
    if case.id not in known:
        known[case.id] = not reference(manifest, case, config.target)[0].any()
    return known[case.id]
