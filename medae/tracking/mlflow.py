"""MLflow as a Tracker: a run of a local database or a server, that a training never waits for nor fails by."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from mlflow import MlflowClient
from mlflow.entities import Run

from medae.errors import GoneError, TrackingError
from medae.tracking.client import (
    STORE_ERRORS,
    experiment_id,
    missing,
    open_client,
    reason,
    refused,
    shown,
    store_uri,
)
from medae.tracking.outbox import Outbox
from medae.tracking.privacy import as_name, as_params, as_tags, public
from medae.tracking.provenance import provenance
from medae.tracking.system import SystemSampler

PARENT_TAG = "mlflow.parentRunId"
COMMIT_TAG = "mlflow.source.git.commit"


class MlflowTracker:
    """One run in an MLflow store.

    What the store does not take, because it is gone or does not answer, waits in ``mlflow_waiting.jsonl`` of the run's
    folder, with one warning. It is sent in order before whatever comes next (attempts are 15 s to 5 min apart), at ``end``,
    and when the run is reopened. Only ``start`` raises because of the store.

    Names and values are brought into MLflow's alphabet and lengths, and absolute paths taken out of them.
    uri: the address of the store. experiment_id: empty if the run was reopened while the store did not answer.
    """

    def __init__(self, client: MlflowClient, uri: str, run_id: str, folder: Path) -> None:
        """Use ``start`` instead."""
        self.uri = uri
        self.experiment_id = ""
        self._client = client
        self._run_id = run_id
        self._outbox = Outbox(client, folder)
        self._params: dict[str, Any] = {}
        self._started = 0.0
        self._sampler: SystemSampler | None = None
        self._ended = False

    @classmethod
    def start(
        cls,
        experiment: str,
        name: str,
        *,
        folder: Path,
        uri: str | None = None,
        parent: str | None = None,
        run_id: str | None = None,
        tags: Mapping[str, str] | None = None,
        system_seconds: float | None = 10.0,
    ) -> MlflowTracker:
        """Open a run, or reopen the run ``run_id`` (whose experiment, name and tags stay) and set it RUNNING.

        folder: where what cannot be delivered waits. uri: the store, see ``store_uri``. parent: the id of the run that this
        one is a part of. system_seconds: how often the use of processor, memory and GPU is logged, None for never.
        Raises TrackingError if a new run cannot be made, GoneError if the store does not hold ``run_id``; a store that does
        not answer does not keep a known run from going on.
        """
        uri = store_uri(uri)
        client = open_client(uri)
        if run_id is None:
            run = _create(client, experiment, name, parent, tags or {})
            tracker = cls(client, uri, run.info.run_id, folder)
            tracker._opened(run, system_seconds)
        else:
            tracker = cls(client, uri, run_id, folder)
            tracker._reopen(system_seconds)
        return tracker

    def _reopen(self, system_seconds: float | None) -> None:
        self._outbox.reopen(self.run_id)
        try:
            self._client.update_run(self.run_id, status="RUNNING")
            run = self._client.get_run(self.run_id)
        except STORE_ERRORS as error:
            if missing(error) or refused(error):
                raise GoneError(
                    f"The run {self.run_id} cannot be reopened: {reason(error)}",
                    where=shown(self.uri),
                    remedy="Use the store that the run was made in (MLFLOW_TRACKING_URI), or start anew (--force).",
                ) from error
            self._outbox.failed(error, self.run_id)
            self._put("resume")
        else:
            self._opened(run, system_seconds)

    def _opened(self, run: Run, system_seconds: float | None) -> None:
        self.experiment_id = run.info.experiment_id
        self._started = run.info.start_time / 1000
        self._outbox.drain()
        if system_seconds is not None:
            self._sampler = SystemSampler(self._system, system_seconds)

    @property
    def run_id(self) -> str:
        """The identity of the run, stored in checkpoints so that a resumed training continues it."""
        return self._run_id

    @property
    def waiting(self) -> int:
        """How many entries have not been delivered yet."""
        return len(self._outbox)

    def params(self, values: Mapping[str, Any]) -> None:
        """Log a (nested) configuration, flattened; whole, as YAML, in the artifact ``params.yaml``.

        A parameter never changes in MLflow: a different value of one that was logged before, such as the steps of a run
        that was made longer, goes into the tag ``changed.<name>``.
        """
        rows, shortened = as_params(values)
        self._put("params", values=rows)
        if shortened:
            self.tags({"params.cut_short": ", ".join(shortened)})
        self._params |= public(values)
        self._text(yaml.safe_dump(json.loads(json.dumps(self._params, default=str)), sort_keys=False), "params.yaml")

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Log numbers at a step. A step that was already logged under the same name is not logged twice."""
        self._put("metrics", values={as_name(name): float(value) for name, value in values.items()}, step=int(step))

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags."""
        self._put("tags", values=as_tags(values))

    def dataset(self, name: str, digest: str, context: str, facts: Mapping[str, Any]) -> None:
        """Log a data set as an input by its digest. context: ``training``, ``validation``, ``testing`` or ``unlabelled``.

        MLflow keeps 36 characters of a digest; the whole is in the input's tag ``medae.digest``.
        """
        self._put("dataset", name=as_name(name), digest=digest, context=context, facts=public(facts))

    def artifact(self, path: Path, folder: str = "") -> None:
        """Store a file, or a folder with all below it, as ``folder/<its name>``."""
        if not path.exists():
            raise TrackingError("There is no such file to be stored with the run.", where=path)
        self._put("artifact", original=path, folder=folder)

    def end(self, status: str = "FINISHED") -> None:
        """Close the run: ``FINISHED``, ``FAILED`` or ``KILLED``; a last attempt to deliver, and a word on what still waits.

        A second call does nothing.
        """
        if self._ended:
            return
        self._ended = True
        if self._sampler is not None:
            self._sampler.stop()
        self._put("end", status=status)
        self._outbox.close(self.run_id)

    def _text(self, text: str, name: str) -> None:
        with tempfile.TemporaryDirectory() as place:
            path = Path(place) / name
            path.write_text(text, encoding="utf-8")
            self.artifact(path)

    def _system(self, values: dict[str, float]) -> None:
        # The step is the second of the run, so that a resumed run goes on where it was.
        self.metrics(values, int(time.time() - self._started))

    def _put(self, kind: str, *, original: Path | None = None, **content: Any) -> None:
        self._outbox.put(kind, self.run_id, original=original, **content)


def _create(client: MlflowClient, experiment: str, name: str, parent: str | None, tags: Mapping[str, str]) -> Run:
    facts = provenance()
    own = {"mlflow.runName": name, **facts, **tags}
    if "git.revision" in facts:
        own[COMMIT_TAG] = facts["git.revision"]
    if parent is not None:
        own[PARENT_TAG] = parent
    try:
        return client.create_run(experiment_id(client, experiment), tags=as_tags(own), run_name=name)
    except STORE_ERRORS as error:
        raise TrackingError(
            f"The tracking store cannot be used: {reason(error)}",
            where=shown(client.tracking_uri),
            remedy="Start the server, or unset MLFLOW_TRACKING_URI to use sqlite:///mlflow.db in the working folder.",
        ) from error
