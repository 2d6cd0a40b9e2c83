"""An artifact as a registered MLflow model: code, weights and record as files, no pickle, no path of this machine."""

from __future__ import annotations

import json
import re
import tempfile
import warnings
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from medae.artifact import CARD, RECORD, STATISTICS, WEIGHTS, Artifact, load_artifact
from medae.errors import TrackingError
from medae.tracking.client import STORE_ERRORS, open_client, reason, shown
from medae.tracking.provenance import package_version

NEWEST = "newest"
# By it MLflow's pages lead from a logged model to its versions in the registry.
VERSIONS_TAG = "mlflow.modelVersions"
CODE = Path(__file__).with_name("pyfunc_model.py")
# What a machine needs to serve the model; medae brings the rest.
REQUIREMENTS = ("medae", "torch", "numpy", "safetensors")


def log_pyfunc(folder: Path, *, run_id: str, name: str, uri: str | None = None, alias: str | None = NEWEST) -> str:
    """Log the artifact in ``folder`` as a model of the run, register it, and give it an alias.

    name: of the registered model; each call makes a new version of it. uri: the store, see ``tracking.client.store_uri``.
    alias: moved to this version, None for none. Returns ``models:/<name>/<version>``.
    The version and the logged model carry the tags ``medae.kind`` and ``medae.digest``; the model is an output of the run.
    Raises ArtifactError if the artifact is not whole, TrackingError if the store does not take the model.
    """
    artifact = load_artifact(folder)
    client = open_client(uri)
    try:
        return _register(client, artifact, run_id, name, alias)
    except STORE_ERRORS as error:
        raise TrackingError(
            f"The model cannot be registered as '{name}': {reason(error)}",
            where=shown(client.tracking_uri),
            remedy="The artifact itself is safe in its folder; register it again when the store answers.",
        ) from error


def _register(client: MlflowClient, artifact: Artifact, run_id: str, name: str, alias: str | None) -> str:
    tags = {"medae.kind": artifact.meta.kind, "medae.digest": artifact.digest}
    # The client, and not mlflow.pyfunc.log_model: that one tags the model with the user and the program's path.
    logged = client.create_logged_model(
        client.get_run(run_id).info.experiment_id,
        name=re.sub(r"[/:.%\"']", "-", name),
        source_run_id=run_id,
        tags=tags,
        model_type=artifact.meta.kind,
    )
    with tempfile.TemporaryDirectory() as place:
        client.log_model_artifacts(
            logged.model_id, str(save_pyfunc(artifact, Path(place) / "model", logged.model_id, run_id))
        )
    client.finalize_logged_model(logged.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(model_id=logged.model_id, step=0)])
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    # By its place: given as models:/<id>, a database store looks for the model in MLflow's global store, not the client's.
    version = client.create_model_version(
        name, logged.artifact_location, run_id=run_id, tags=tags | {"medae.model": logged.model_id}, model_id=logged.model_id
    ).version
    client.set_logged_model_tags(logged.model_id, {VERSIONS_TAG: json.dumps([{"name": name, "version": int(version)}])})
    if alias is not None:
        client.set_registered_model_alias(name, alias, version)
    return f"models:/{name}/{version}"


def save_pyfunc(artifact: Artifact, folder: Path, model_id: str | None = None, run_id: str | None = None) -> Path:
    """Write a folder that ``mlflow.pyfunc.load_model`` opens; its subfolder ``artifacts`` is the artifact itself."""
    files = {"weights": WEIGHTS, "statistics": STATISTICS, "config": RECORD, "card": CARD}
    present = {key: str(artifact.folder / file) for key, file in files.items() if (artifact.folder / file).is_file()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # asks for a signature, which cannot say "a path or an array"
        mlflow.pyfunc.save_model(
            str(folder),
            python_model=str(CODE),
            artifacts=present,
            pip_requirements=[f"{package}=={package_version(package)}" for package in REQUIREMENTS],
        )
    record = Model.load(str(folder))
    flavor = record.flavors["python_function"]
    # MLflow notes where each file came from; loading needs only where it lies in the model.
    flavor["model_code_path"] = CODE.name
    for entry in flavor["artifacts"].values():
        entry["uri"] = entry["path"]
    record.model_id, record.run_id = model_id, run_id
    record.save(str(folder / "MLmodel"))
    return folder
