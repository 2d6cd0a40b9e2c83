"""How each kind of entry reaches an MLflow store, and what of it the store has already."""

from __future__ import annotations

import json
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag

from medae.tracking.privacy import as_tags
from medae.tracking.spool import Entry, Spool

# Limits of MLflow's interface.
METRICS_PER_CALL = 1000
PARAMS_PER_CALL = 100
DIGEST_LENGTH = 36
CONTEXT_TAG = "mlflow.data.context"
SYSTEM = "system/"


def is_file(entry: Entry) -> bool:
    """Whether an entry is a file or folder to be stored."""
    return bool(entry["kind"] == "artifact")


class Delivery:
    """Sends entries and keeps account of the (name, step) pairs that each run holds."""

    def __init__(self, client: MlflowClient, spool: Spool) -> None:
        """Nothing is known of any run but that of a new one, which is empty."""
        self._client = client
        self._spool = spool
        self._held: dict[str, dict[str, set[int]]] = {}
        self._unknown: set[str] = {entry["run"] for entry in spool}

    def forget(self, run: str) -> None:
        """Ask the store again what ``run`` holds before metrics are sent: a call that failed may yet have done its work."""
        self._held.pop(run, None)
        self._unknown.add(run)

    def next_group(self, files: bool) -> list[Entry]:
        """What goes in the next call: the first that waits, of files or of all else; metrics of one run go together."""
        group: list[Entry] = []
        size = 0
        for entry in self._spool:
            if is_file(entry) != files:
                continue
            size += len(entry.get("values", ()))
            if group and (size > METRICS_PER_CALL or any(entry[key] != group[0][key] for key in ("kind", "run"))):
                break
            group.append(entry)
            if entry["kind"] != "metrics":
                break
        return group

    def send(self, group: list[Entry], original: Path | None) -> None:
        """Deliver entries of one kind and run; ``original``: the file of an artifact that has not been put aside."""
        first = group[0]
        run = first["run"]
        match first["kind"]:
            case "metrics":
                self._metrics(run, group)
            case "params":
                self._param(run, first["values"])
            case "tags":
                self._client.log_batch(run, tags=_tags(first["values"]))
            case "dataset":
                self._dataset(run, first)
            case "artifact":
                self._artifact(run, original or self._spool.locate(first["path"]), first["folder"])
            case "resume":
                self._client.update_run(run, status="RUNNING")
            case "end":
                self._client.set_terminated(run, status=first["status"], end_time=first["time"])

    def _metrics(self, run: str, group: list[Entry]) -> None:
        held = self._steps(run)
        fresh: dict[tuple[str, int], Metric] = {}
        for entry in group:
            step = entry["step"]
            for name, value in entry["values"].items():
                if step not in held.get(name, ()):
                    fresh.setdefault((name, step), Metric(name, value, entry["time"], step))
        if fresh:
            self._client.log_batch(run, metrics=list(fresh.values()))
        for name, step in fresh:
            held.setdefault(name, set()).add(step)

    def _steps(self, run: str) -> dict[str, set[int]]:
        if run in self._unknown:
            names = self._client.get_run(run).data.metrics
            self._held[run] = {
                name: {metric.step for metric in self._client.get_metric_history(run, name)}
                for name in names
                # Long histories that no one adds to twice: their steps are seconds.
                if not name.startswith(SYSTEM)
            }
            self._unknown.remove(run)
        return self._held.setdefault(run, {})

    def _param(self, run: str, values: dict[str, str]) -> None:
        held = self._client.get_run(run).data.params
        fresh = [Param(name, value) for name, value in values.items() if name not in held]
        for start in range(0, len(fresh), PARAMS_PER_CALL):
            self._client.log_batch(run, params=fresh[start : start + PARAMS_PER_CALL])
        changed = {f"changed.{name}": value for name, value in values.items() if held.get(name, value) != value}
        if changed:
            self._client.log_batch(run, tags=_tags(as_tags(changed)))

    def _dataset(self, run: str, entry: Entry) -> None:
        whole = entry["digest"]
        dataset = Dataset(
            name=entry["name"],
            digest=whole[:DIGEST_LENGTH],
            source_type="medae",
            source=json.dumps({"digest": whole}),
            profile=json.dumps(entry["facts"], default=str),
        )
        marks = {CONTEXT_TAG: entry["context"], "medae.digest": whole}
        self._client.log_inputs(run, [DatasetInput(dataset, [InputTag(key, value) for key, value in marks.items()])])

    def _artifact(self, run: str, path: Path, folder: str) -> None:
        if path.is_dir():
            self._client.log_artifacts(run, str(path), f"{folder}/{path.name}".lstrip("/"))
        else:
            self._client.log_artifact(run, str(path), folder or None)


def _tags(values: dict[str, str]) -> list[RunTag]:
    return [RunTag(name, value) for name, value in values.items()]
