"""``medae promote``: give a run's model an alias, if it is no worse than the one that has it, on the same test cases."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from medae.errors import ConfigError, DataError, TrackingError
from medae.metrics.segmentation import case_dice
from medae.metrics.statistics import PairedDifference, paired_difference
from medae.tracking.client import STORE_ERRORS, missing, open_client, reason, shown
from medae.tracking.models import stored_result
from pipelines.console import Screen

SCORES = {"finetune": "dice", "detect": "average_precision"}
"""What the models of a stage are compared by, of each test case."""

NAMES = {"dice": "Dice", "average_precision": "Average precision"}


@dataclass(frozen=True)
class Tested:
    """A registered model with what its run says of it. labels: that its scores are of, none of a detector. scores: by test
    case. cases: digest of what it was tested on."""

    name: str
    version: str
    stage: str
    labels: tuple[str, ...]
    scores: dict[str, float]
    cases: str | None

    @property
    def address(self) -> str:
        """As every command takes it."""
        return f"models:/{self.name}/{self.version}"


def run(which: str, alias: str, arm: str | None, force: bool, as_json: bool) -> dict[str, Any]:
    """Move the alias. which: a registered model (``models:/…``), or a run's id, with or without ``runs:/``. arm: of the run;
    its own model unless given.

    Raises DataError if the model is worse than the one that has the alias, or cannot be compared with it, unless forced.
    """
    screen, client = Screen(as_json), open_client()
    if not re.fullmatch(r"[A-Za-z][\w-]*", alias) or alias.lower() in ("latest", "newest"):
        raise ConfigError(
            f"'{alias}' is no alias to give.",
            where="--alias",
            remedy="Begin with a letter; 'newest' is medae's own, and 'latest' MLflow's.",
        )
    try:
        candidate = _candidate(client, which, arm)
        if candidate.stage not in SCORES:
            raise DataError(
                f"A model of {candidate.stage} is not tested on scans with a reference: there is nothing to compare.",
                where=candidate.address,
                remedy="Promote a segmenter (finetune) or a detector (detect).",
            )
        champion = _holder(client, candidate.name, alias)
        said: dict[str, Any] = {"stage": "promote", "model": candidate.address, "alias": alias, "before": None}
        if champion is None:
            text = f"No model of '{candidate.name}' is called '{alias}' yet: nothing was compared."
        elif champion.version == candidate.version:
            text = f"{candidate.address} is '{alias}' already."
            said["before"] = champion.address
        else:
            text, difference = _compared(candidate, champion, force)
            said |= {"before": champion.address, "difference": None if difference is None else difference.model_dump()}
        client.set_registered_model_alias(candidate.name, alias, candidate.version)
    except STORE_ERRORS as error:
        raise TrackingError(
            f"The model cannot be promoted: {reason(error)}.",
            where=shown(client.tracking_uri),
            remedy="Check the run's id and the store (MLFLOW_TRACKING_URI).",
        ) from error
    screen.say(text)
    screen.say(f"{candidate.address} is now models:/{candidate.name}@{alias}")
    screen.json(said)
    return said


def _candidate(client: MlflowClient, which: str, arm: str | None) -> Tested:
    if registered := re.fullmatch(r"models:/([^/@]+)(?:@([\w-]+)|/(\d+))", which):
        name, own, number = registered.groups()
        return _version(
            client, client.get_model_version_by_alias(name, own) if own else client.get_model_version(name, number)
        )
    run_id = which.removeprefix("runs:/").strip("/")
    result = _result(client, run_id)
    registered = result.get("registered", {})
    chosen = arm or next(iter(registered), None)
    address = registered.get(chosen) if chosen else None
    match = re.fullmatch(r"models:/(.+)/(\d+)", address or "")
    if match is None:
        known = ", ".join(name for name, each in registered.items() if each and each.startswith("models:/"))
        raise DataError(
            f"The run has registered no model{f' of the arm {arm!r}' if arm else ''}.",
            where=run_id,
            remedy=f"Choose an arm (--arm): {known}." if known else "Name a run of finetune or detect that ended.",
        )
    return _tested(client, match[1], match[2], run_id, str(chosen), result)


def _holder(client: MlflowClient, name: str, alias: str) -> Tested | None:
    """The model that has the alias now."""
    try:
        version = client.get_model_version_by_alias(name, alias)
    except STORE_ERRORS as error:
        if missing(error) or getattr(error, "error_code", "") == "INVALID_PARAMETER_VALUE":
            return None
        raise
    return _version(client, version)


def _version(client: MlflowClient, version: ModelVersion) -> Tested:
    result = _result(client, str(version.run_id))
    address = f"models:/{version.name}/{version.version}"
    arm = next((arm for arm, each in result.get("registered", {}).items() if each == address), "")
    return _tested(client, version.name, str(version.version), str(version.run_id), arm, result)


def _tested(client: MlflowClient, name: str, version: str, run_id: str, arm: str, result: dict[str, Any]) -> Tested:
    stage = str(result.get("stage"))
    metrics = result.get("metrics", {})
    own = metrics.get(arm) or (metrics.get("detector") if stage == "detect" else None) or {}
    score = SCORES.get(stage, "dice")
    cases = own.get("cases", {})
    scores: dict[str, float | None] = {case: _score(values, score) for case, values in cases.items()}
    if "labels" in own:  # as the model's own figure is made: labels that no reference has do not count
        scores = dict(case_dice(own))
    inputs = client.get_run(run_id).inputs
    used = [] if inputs is None else inputs.dataset_inputs
    tested = [each.dataset.digest for each in used if each.dataset.name.endswith("-testing")]
    known = {case: value for case, value in scores.items() if value is not None}
    return Tested(name, version, stage, tuple(own.get("labels", ())), known, tested[0] if len(tested) == 1 else None)


def _score(values: Any, score: str) -> float | None:
    """Of a case: its own number, else the mean over its labels."""
    if isinstance(values, (int, float)):
        return float(values)
    if score in values:
        return None if values[score] is None else float(values[score])
    parts = [label[score] for label in values.values() if isinstance(label, dict) and label.get(score) is not None]
    return sum(parts) / len(parts) if parts else None


def _compared(candidate: Tested, champion: Tested, force: bool) -> tuple[str, PairedDifference | None]:
    """What the comparison says. Raises DataError if it speaks against the candidate, or there is none, unless forced."""
    common = sorted(set(candidate.scores) & set(champion.scores))
    both = f"{candidate.address} and {champion.address}"
    if candidate.stage != champion.stage or candidate.cases is None or candidate.cases != champion.cases or not common:
        text = f"{both} were not tested on the same cases, and cannot be compared."
        if not force:
            raise DataError(text, where="test cases", remedy="Train with the same data and split, or give --force.")
        return text, None
    if set(candidate.labels) != set(champion.labels):
        labels = " and ".join(", ".join(each.labels) or "none" for each in (candidate, champion))
        text = f"{both} were tested on other labels ({labels}), and cannot be compared."
        if not force:
            raise DataError(text, where="labels", remedy="Give their configurations other names, or --force.")
        return text, None
    found = paired_difference([candidate.scores[case] for case in common], [champion.scores[case] for case in common])
    interval = "" if found.low is None else f" [{found.low:+.3f}, {found.high:+.3f}]"
    text = (
        f"{NAMES[SCORES[candidate.stage]]} on the same {len(common)} test cases, less that of {champion.address}: "
        f"{found.mean:+.3f}{interval}{' over cases' if interval else ''}."
    )
    if found.mean < 0 and not force:
        how = "; the cases are too few to say by chance or not" if found.high is None else ""
        if found.high is not None and found.high >= 0:
            how = ", though by no more than chance gives"
        raise DataError(
            f"The model is worse than the one that has the alias{how}. {text}",
            where=candidate.address,
            remedy="Leave the alias where it is, or give --force.",
        )
    return text, found


def _result(client: MlflowClient, run_id: str) -> dict[str, Any]:
    """``result.json`` as the run stored it."""
    try:
        return stored_result(client, run_id)
    except STORE_ERRORS as error:
        raise TrackingError(
            f"The run has no result: {reason(error)}.",
            where=run_id,
            remedy="Name a run of finetune or detect that ended (runs:/ID).",
        ) from error
