"""How well an anomaly map and its thresholded mask find lesions: a scan at a time, and over all scans.

All arrays are in the file's own grid. One brain mask, given, serves every row of a comparison. Normal voxels count
inside the mask only. Lesion voxels outside it count as missed in every figure: recall, average precision, AUROC and
Dice. A voxel is flagged when its value is at least the threshold. Figures that a scan cannot have (Dice without a
lesion) are None and leave the means; how many scans remain is reported.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from medae.errors import DataError
from medae.metrics.lesions import SIZE_STRATA_ML, LesionMatch, SizeStratum, match_lesions, recall_by_size
from medae.metrics.pooled import Tally, auroc_interval, half_width, pooled_interval, share_interval
from medae.metrics.statistics import FEWEST
from medae.metrics.voxelscores import PrecisionRecall, VoxelScores, best_dice, check_same_grid, score_bins


def auroc(scores: Sequence[float], diseased: Sequence[bool]) -> float | None:
    """Chance that a diseased scan scores above a normal one, ties half. None unless both kinds are there."""
    values, positive = np.asarray(scores, dtype=np.float64), np.asarray(diseased, dtype=bool)
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    if n_positive == 0 or n_negative == 0:
        return None
    ranks = stats.rankdata(values)
    return float((ranks[positive].sum() - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))


def average_precision(scores: Sequence[float], diseased: Sequence[bool]) -> float | None:
    """Sum over thresholds of the gain in diseased scans found times the precision. None unless both kinds are there."""
    values, positive = np.asarray(scores, dtype=np.float64), np.asarray(diseased, dtype=bool)
    if positive.all() or not positive.any():
        return None
    order = np.argsort(-values, kind="stable")
    last = np.flatnonzero(np.append(np.diff(values[order]) != 0, True))  # of scans with the same score
    found = np.cumsum(positive[order])[last]
    return float(np.sum(np.diff(found, prepend=0) * found / (last + 1)) / positive.sum())


def dice(prediction: np.ndarray, lesion: np.ndarray) -> float | None:
    """2 |P and L| / (|P| + |L|); None without a lesion voxel. Raises GeometryError if the shapes differ."""
    check_same_grid(prediction=prediction, lesion=lesion)
    flagged, diseased = prediction != 0, lesion != 0
    if not diseased.any():
        return None
    return float(2 * np.count_nonzero(flagged & diseased) / (np.count_nonzero(flagged) + np.count_nonzero(diseased)))


@dataclass(frozen=True)
class LesionError:
    """Mean absolute reconstruction error (units of the normalised image) of normal and of lesion voxels in the mask.

    None where there is no such voxel. A model that reconstructs normal anatomy and removes lesions has a high ratio;
    a low normal error alone says nothing about the removal of lesions.
    """

    normal: float | None
    lesion: float | None

    @property
    def ratio(self) -> float | None:
        """Lesion error / normal error."""
        return self.lesion / self.normal if self.lesion is not None and self.normal else None


def lesion_error(error: np.ndarray, mask: np.ndarray, lesion: np.ndarray) -> LesionError:
    """Split the absolute error, before any filter, by truth inside the mask. Raises GeometryError if shapes differ."""
    check_same_grid(error=error, mask=mask, lesion=lesion)
    inside, diseased = mask != 0, lesion != 0

    def mean(where: np.ndarray) -> float | None:
        return float(np.mean(error[where], dtype=np.float64)) if where.any() else None

    return LesionError(normal=mean(inside & ~diseased), lesion=mean(inside & diseased))


@dataclass(frozen=True)
class ScanMetrics:
    """One scan. Figures that need a lesion are None without one.

    score: the scan score. lesion_ml: true volume. mask_recall: share of the lesion inside the mask. dice, recall,
    precision: of the predicted mask, voxel-wise. true_positives, false_positives, normal_voxels: inside the mask.
    """

    case: str
    subject: str
    score: float
    lesion_ml: float
    mask_recall: float | None
    average_precision: float | None
    auroc: float | None
    dice: float | None
    recall: float | None
    precision: float | None
    true_positives: int
    false_positives: int
    normal_voxels: int
    lesions: LesionMatch
    error: LesionError | None

    @property
    def has_lesion(self) -> bool:
        """Whether the truth holds a lesion."""
        return bool(self.lesions.volumes_ml)

    @property
    def false_findings(self) -> int:
        """Flagged components that are no lesion."""
        return self.lesions.findings - self.lesions.true_findings

    @property
    def false_positive_rate(self) -> float | None:
        """Flagged share of the normal voxels inside the mask; None if there is no normal voxel."""
        return self.false_positives / self.normal_voxels if self.normal_voxels else None


def false_positive_rates(scans: Iterable[ScanMetrics]) -> dict[str, float]:
    """By subject: flagged share of the normal voxels inside the mask, the subject's scans pooled."""
    counts: dict[str, tuple[int, int]] = {}
    for scan in scans:
        flagged, normal = counts.get(scan.subject, (0, 0))
        counts[scan.subject] = (flagged + scan.false_positives, normal + scan.normal_voxels)
    return {subject: flagged / normal for subject, (flagged, normal) in counts.items() if normal}


class AnomalyEvaluation:
    """Collects scans one at a time; keeps a row and a tally a scan, from which every figure comes, never the arrays."""

    def __init__(self, overlap: float = 0.1, strata_ml: Sequence[float] = SIZE_STRATA_ML) -> None:
        """overlap: of the lesion-wise rule. strata_ml: inner bounds of the lesion sizes, in millilitres."""
        self.overlap = overlap
        self.strata_ml = tuple(strata_ml)
        self.scans: list[ScanMetrics] = []
        self.tallies: list[Tally] = []
        self._pooled: VoxelScores | None = None
        self._summary: dict[str, float | int | None] = {}
        self._intervals: dict[str, tuple[float, float]] | None = None

    def add(
        self,
        case: str,
        scores: np.ndarray,
        prediction: np.ndarray,
        mask: np.ndarray,
        lesion: np.ndarray,
        *,
        voxel_ml: float,
        scan_score: float,
        subject: str | None = None,
        error: np.ndarray | None = None,
    ) -> ScanMetrics:
        """Evaluate one scan.

        scores: float anomaly map. prediction: the mask made of it at the calibrated threshold. mask: the brain.
        lesion: the truth; non-zero is inside for all three. error: absolute reconstruction error, unfiltered.
        voxel_ml: a voxel's volume in millilitres. subject: the case id unless given. All arrays of one shape.
        Raises GeometryError (shapes), DataError (scores not finite, prediction outside the mask).
        """
        check_same_grid(scores=scores, prediction=prediction, mask=mask, lesion=lesion)
        flagged, inside, diseased = prediction != 0, mask != 0, lesion != 0
        if (flagged & ~inside).any():
            raise DataError("A prediction lies outside the brain mask.", where=case, remedy="Apply the mask first.")
        tally = VoxelScores()
        tally.add(scores, inside, diseased)
        hit, flags, total = (int(np.count_nonzero(part)) for part in (flagged & diseased, flagged, diseased))
        row = ScanMetrics(
            case=case,
            subject=case if subject is None else subject,
            score=scan_score,
            lesion_ml=total * voxel_ml,
            mask_recall=(total - tally.missed) / total if total else None,
            average_precision=tally.average_precision(),
            auroc=tally.auroc(),
            dice=2 * hit / (flags + total) if total else None,
            recall=hit / total if total else None,
            precision=hit / flags if total and flags else None,
            true_positives=hit,
            false_positives=flags - hit,
            normal_voxels=tally.n_normal,
            lesions=match_lesions(flagged, diseased, voxel_ml, self.overlap),
            error=None if error is None else lesion_error(error, inside, diseased),
        )
        self.include(row, Tally.of(tally))
        return row

    def include(self, scan: ScanMetrics, tally: Tally) -> None:
        """Take in a scan that was evaluated before."""
        self._pooled, self._summary, self._intervals = None, {}, None
        self.scans.append(scan)
        self.tallies.append(tally)

    @property
    def pooled(self) -> VoxelScores:
        """The voxels of all scans as one."""
        if self._pooled is None:
            self._pooled = VoxelScores()
            self._pooled.merge(*(tally.scores() for tally in self.tallies))
        return self._pooled

    def subjects(self) -> list[str]:
        """Whom each scan is of, in the order of the scans."""
        return [scan.subject for scan in self.scans]

    def curve(self, points: int = 500) -> PrecisionRecall | None:
        """The pooled precision-recall curve; None without a lesion."""
        return self.pooled.curve(points)

    def strata(self) -> list[SizeStratum]:
        """Recall by lesion size."""
        return recall_by_size((scan.lesions for scan in self.scans), self.strata_ml)

    def normal_subjects(self) -> frozenset[str]:
        """Those none of whose scans has a lesion."""
        return frozenset(scan.subject for scan in self.scans) - {scan.subject for scan in self.scans if scan.lesion_ml > 0}

    def false_positive_rates(self) -> dict[str, float]:
        """See ``false_positive_rates``."""
        return false_positive_rates(self.scans)

    def reached(self, threshold: float) -> dict[str, float]:
        """By subject: share of the normal voxels inside the mask whose value is at least a threshold, its scans pooled.

        Exact where the threshold is the floor of a bin, as those of a calibration are; else it is that of the floor below.
        """
        first = int(score_bins(np.array([threshold]))[0])
        counts: dict[str, tuple[int, int]] = {}
        for scan, tally in zip(self.scans, self.tallies, strict=True):
            above, normal = counts.get(scan.subject, (0, 0))
            own = int(tally.normal[tally.bins >= first].sum()), int(tally.normal.sum())
            counts[scan.subject] = (above + own[0], normal + own[1])
        return {subject: above / normal for subject, (above, normal) in counts.items() if normal}

    def summary(self) -> dict[str, float | int | None]:
        """The figures over all scans.

        ``*_pooled``: over the voxels of all scans as one; ``*_low``, ``*_high``: its 95 % interval over subjects.
        ``*_mean``: mean of the scans that have the figure.
        ``dice_oracle``: the mean Dice at the one threshold that makes it best on these very scans and their truth; an
        upper bound that no user can reach, from the map alone (no component removal). ``dice_pooled_oracle`` likewise.
        ``lesion_*``: lesion-wise. ``mask_recall_pooled``: the recall that the brain mask alone permits.
        ``*_normal``: of the subjects without a lesion; ``false_findings_normal``: flagged components in a scan of theirs.
        ``prevalence``: lesion voxels as a share of all that count. ``average_precision_random``: that of a map that knows
        nothing, and like all others finds no lesion outside the mask.
        """
        if not self._summary:
            self._summary = self._summarised()
        return dict(self._summary)

    def intervals(self) -> dict[str, tuple[float, float]]:
        """95 % intervals over subjects, by the name of the figure in ``summary``; of those that have one.

        By a jackknife, each subject left out with all its scans, shares on the scale of their logit; see
        `medae.metrics.pooled`. Degrees of freedom: one less than the subjects with a lesion, of a figure of normals those
        without, of one that sets both against each other the fewer, else all. With fewer than 5 of them there is none, nor
        where the figure is the same whoever is left out.
        """
        if self._intervals is None:
            self._intervals = self._over_subjects()
        return dict(self._intervals)

    def _over_subjects(self) -> dict[str, tuple[float, float]]:
        names, healthy = sorted(set(self.subjects())), self.normal_subjects()
        found = {}
        for name, interval in (("average_precision_pooled", pooled_interval), ("auroc_pooled", auroc_interval)):
            if (ends := interval(self.tallies, self.subjects())) is not None:
                found[name] = ends
        counted = [
            (scan, tally.missed, int(tally.lesion.sum())) for scan, tally in zip(self.scans, self.tallies, strict=True)
        ]
        others = [_of_scans([each for each in counted if each[0].subject != name], healthy) for name in names]
        for name, value in _of_scans(counted, healthy).items():
            left = [each[name] for each in others]
            carriers = _carriers(name, len(names) - len(healthy), len(names))
            if value is None or carriers < FEWEST or None in left:
                continue
            without = np.array(left, dtype=float)
            if name not in UNBOUNDED:
                own = share_interval(value, without, carriers)
            else:
                half = half_width(without, carriers)
                own = (max(value - half, 0.0), value + half) if half > 0 else None
            if own is not None:
                found[name] = own
        return found

    def _summarised(self) -> dict[str, float | int | None]:
        rates = list(self.false_positive_rates().values())
        counts = [found for found in (tally.scores() for tally in self.tallies) if found.n_lesion]
        oracle, oracle_threshold = best_dice(counts) if counts else (None, None)
        total = self.pooled.n_lesion
        n_voxels = total + self.pooled.n_normal
        low, high = self.intervals().get("average_precision_pooled", (None, None))
        counted = [
            (scan, tally.missed, int(tally.lesion.sum())) for scan, tally in zip(self.scans, self.tallies, strict=True)
        ]
        return {
            "n_scans": len(self.scans),
            "n_lesion_scans": sum(scan.has_lesion for scan in self.scans),
            "average_precision_pooled": self.pooled.average_precision(),
            "average_precision_pooled_low": low,
            "average_precision_pooled_high": high,
            "average_precision_random": self.pooled.prevalence * self.pooled.reach if total else None,
            "prevalence": total / n_voxels if n_voxels else None,
            "auroc_pooled": self.pooled.auroc(),
            "dice_oracle": oracle,
            "dice_oracle_threshold": oracle_threshold,
            "dice_pooled_oracle": best_dice([self.pooled])[0] if counts else None,
            "false_positive_rate_sd": float(np.std(rates, ddof=1)) if len(rates) > 1 else None,
            "false_positive_rate_max": max(rates, default=None),
            "n_lesions": sum(len(scan.lesions.found) for scan in self.scans),
            **_of_scans(counted, self.normal_subjects()),
        }


UNBOUNDED = ("normal_l1", "lesion_l1", "l1_ratio", "false_findings_normal")
"""Figures that may be above 1."""


def _carriers(name: str, sick: int, subjects: int) -> int:
    """How many subjects carry a figure."""
    if name.endswith("_normal"):
        return subjects - sick
    if name.endswith("_scan"):
        return min(sick, subjects - sick)
    return subjects if name in ("false_positive_rate_mean", "normal_l1") else sick


def _of_scans(counted: Sequence[tuple[ScanMetrics, int, int]], healthy: frozenset[str]) -> dict[str, float | None]:
    """The figures that are made of those of scans.

    counted: each scan with its lesion voxels outside and inside the mask. healthy: the subjects none of whose scans has a
    lesion.
    """
    scans = [scan for scan, _, _ in counted]
    diseased = [scan for scan in scans if scan.has_lesion]
    normal = [scan for scan in scans if scan.subject in healthy]
    rates = false_positive_rates(scans)
    errors = [scan.error for scan in scans if scan.error is not None]
    missed = sum(outside for _, outside, _ in counted)
    total = missed + sum(inside for _, _, inside in counted)
    hit = sum(scan.true_positives for scan in scans)
    flags = hit + sum(scan.false_positives for scan in scans)
    matches = [scan.lesions for scan in scans]
    lesions, found = sum(len(match.found) for match in matches), sum(sum(match.found) for match in matches)
    findings, true = sum(match.findings for match in matches), sum(match.true_findings for match in matches)
    recall, precision = found / lesions if lesions else None, true / findings if findings else None
    scores, sick = [scan.score for scan in scans], [scan.has_lesion for scan in scans]
    return {
        "average_precision_mean": _mean(scan.average_precision for scan in diseased),
        "auroc_mean": _mean(scan.auroc for scan in diseased),
        "auroc_scan": auroc(scores, sick),
        "average_precision_scan": average_precision(scores, sick),
        "dice_mean": _mean(scan.dice for scan in diseased),
        "dice_pooled": 2 * hit / (flags + total) if total else None,
        "recall_pooled": hit / total if total else None,
        "precision_pooled": hit / flags if total and flags else None,
        "mask_recall_pooled": (total - missed) / total if total else None,
        "false_positive_rate_mean": _mean(rates.values()),
        "false_positive_rate_normal": _mean(rates.get(subject) for subject in sorted(healthy)),
        "false_findings_normal": _mean(scan.false_findings for scan in normal),
        "lesion_recall": recall,
        "lesion_precision": precision,
        "lesion_f1": _f1(recall, precision),
        "normal_l1": _mean(error.normal for error in errors),
        "lesion_l1": _mean(error.lesion for error in errors),
        "l1_ratio": _mean(error.ratio for error in errors),
    }


def _f1(recall: float | None, precision: float | None) -> float | None:
    """Their harmonic mean; 0 where nothing was flagged, and None without a lesion."""
    if recall is None:
        return None
    return 2 * recall * precision / (recall + precision) if recall and precision else 0.0


def _mean(values: Iterable[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return float(np.mean(present)) if present else None
