"""Where a model is: a folder, ``runs:/...`` or ``models:/...`` brought to a local folder."""

from __future__ import annotations

import atexit
import json
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts

from medae.errors import ArtifactError, TrackingError
from medae.tracking.client import STORE_ERRORS, missing, open_client, reason, shown

# The file that makes a folder a medae artifact.
RECORD = "medae.json"
RESULT = "result.json"
_RUN = re.compile(r"runs:/(?P<run>[\w-]+)(?:/(?P<path>.+?))?/?$")
_MODEL = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[\w-]+)|/(?P<version>\d+))$")


def resolve_model(model: str | Path, *, store: str | None = None, folder: Path | None = None) -> Path:
    """The local folder of a medae artifact.

    model: a path, ``runs:/<run id>`` (the artifact among what the run stored, else the model that it made; of several, such
    as those of two arms, the first that its ``result.json`` names, which is the run's own),
    ``runs:/<run id>/<path>``, ``models:/<name>@<alias>`` or ``models:/<name>/<version>``. store: see ``store_uri``.
    folder: where a download gets a folder of its own; by default a temporary one that is gone when the program ends.
    Raises TrackingError if the store does not answer or holds no such run or model, ArtifactError if what is there is no
    medae artifact.
    """
    text = str(model)
    if not text.startswith(("runs:", "models:")):
        return _artifact_in(Path(model).expanduser(), text)
    run, registered = _RUN.match(text), _MODEL.match(text)
    if run is None and registered is None:
        raise TrackingError(
            f"'{text}' is not an address of a model.",
            remedy="Write runs:/<run id>, runs:/<run id>/<path>, models:/<name>@<alias> or models:/<name>/<version>.",
        )
    client = open_client(store)
    try:
        source = text
        if run is not None and run["path"] is None:
            source = _stored_by(client, run["run"])
        elif registered is not None:
            _require(client, registered)
        place = _own_folder(folder)
        local = download_artifacts(
            artifact_uri=source, dst_path=place, tracking_uri=client.tracking_uri, registry_uri=client.tracking_uri
        )
    except STORE_ERRORS as error:
        what = "is not in the tracking store" if missing(error) else "cannot be fetched from the tracking store"
        raise TrackingError(
            f"{text} {what}: {reason(error)}",
            where=shown(client.tracking_uri),
            remedy="Check the name and the store (MLFLOW_TRACKING_URI).",
        ) from error
    return _artifact_in(Path(local), text)


def _require(client: MlflowClient, registered: re.Match[str]) -> None:
    """Ask for the version first: the errors of a download do not say what is missing."""
    if registered["alias"] is not None:
        client.get_model_version_by_alias(registered["name"], registered["alias"])
    else:
        client.get_model_version(registered["name"], registered["version"])


def _stored_by(client: MlflowClient, run_id: str) -> str:
    """The address of the artifact among the run's files (at the top or one folder down), else of its last model."""
    files = client.list_artifacts(run_id)
    for place in ["", *(item.path for item in files if item.is_dir)]:
        found = files if place == "" else client.list_artifacts(run_id, place)
        if any(Path(item.path).name == RECORD for item in found):
            return f"runs:/{run_id}/{place}".rstrip("/")
    outputs = client.get_run(run_id).outputs
    models = [] if outputs is None else [each.model_id for each in outputs.model_outputs]
    if not models:
        raise ArtifactError(
            f"The run {run_id} stored no model.",
            where=shown(client.tracking_uri),
            remedy="Name a run of pretrain, finetune or detect that ended.",
        )
    # the store gives a run's models in no order, and may have refused the run's own
    registered = stored_result(client, run_id).get("registered", {}) if any(item.path == RESULT for item in files) else {}
    if not registered and len(models) == 1:
        return f"models:/{models[0]}"
    first = next(iter(registered.values()), None)
    if first is None or _MODEL.match(first) is None:
        raise ArtifactError(
            f"The run {run_id} does not say which of the {len(models)} models that it stored is its own.",
            where=shown(client.tracking_uri),
            remedy="Name one of them, models:/<name>/<version>: the run's page in MLflow lists them.",
        )
    return str(first)


def stored_result(client: MlflowClient, run_id: str) -> dict[str, Any]:
    """A run's ``result.json``. Raises what ``STORE_ERRORS`` names if there is none."""
    with tempfile.TemporaryDirectory() as folder:
        path = download_artifacts(run_id=run_id, artifact_path=RESULT, dst_path=folder, tracking_uri=client.tracking_uri)
        content: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
    return content


def _own_folder(parent: Path | None) -> str:
    """A new folder in ``parent``, else a temporary one, gone when the program ends: weights hold traces of their scans."""
    if parent is not None:
        parent.mkdir(parents=True, exist_ok=True)
        return tempfile.mkdtemp(prefix="medae-model-", dir=parent)
    folder = tempfile.mkdtemp(prefix="medae-model-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _artifact_in(folder: Path, name: str) -> Path:
    """``folder``, or what an MLflow model keeps in it under ``artifacts``."""
    for place in (folder, folder / "artifacts"):
        if (place / RECORD).is_file():
            return place
    if not folder.exists():
        raise ArtifactError("There is no such model folder.", where=name, remedy="Check the path, or train the model first.")
    raise ArtifactError(
        f"This is not a medae model: it has no {RECORD}.",
        where=name,
        remedy="Give the folder that holds weights.safetensors.",
    )
