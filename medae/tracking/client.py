"""The one place that opens MLflow: quiet, silent to the outside, and quick to give up on a server that is gone."""

from __future__ import annotations

import logging
import os
import re
from contextlib import nullcontext
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import mlflow  # noqa: F401  (configures its loggers on import, so this comes before they are turned down)
import requests
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from medae.errors import TrackingError

PATIENCE = 300
"""Seconds that a process waits for another one to make a database."""

DEFAULT_URI = "sqlite:///mlflow.db"

# What a call to a store raises when it cannot be reached, does not answer in its own way, or a library for it is missing.
STORE_ERRORS = (MlflowException, SQLAlchemyError, requests.RequestException, OSError, ImportError)

# MLflow reads these from the environment at every request and from nowhere else; a value that the user has set stays.
# Its own limits (7 retries of 120 s each) would hold a training up for minutes when a server disappears.
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_UV_AUTO_DETECT": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
# Answers that will be the same at every further attempt.
_REFUSALS = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "MALFORMED_REQUEST"}
_REFUSED_FILES = {400, 404, 405, 413, 414, 415, 422}


def store_uri(uri: str | None = None) -> str:
    """The tracking store: ``uri``, else MLFLOW_TRACKING_URI, else ``sqlite:///mlflow.db`` in the working folder."""
    return uri or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI


def open_client(uri: str | None = None) -> MlflowClient:
    """A client of the store ``uri`` (see ``store_uri``) that is also its registry.

    Raises TrackingError if the address is of no kind that MLflow knows, or a SQLite file that cannot be made. A server
    is not asked yet: whether it answers shows at the first call.
    """
    address = store_uri(uri)
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if "MLFLOW_LOGGING_LEVEL" not in os.environ:
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.ERROR)
    database = _sqlite_file(address)
    if database is not None:
        _check_writable(database)
        # MLflow keeps one store an address: a relative one would go on meaning the folder it was first opened in.
        address = f"sqlite:///{database.as_posix()}"
    try:
        # Two processes that make the tables of a new database at the same time get in each other's way.
        with nullcontext() if database is None else FileLock(f"{database}.lock", timeout=PATIENCE):
            return MlflowClient(tracking_uri=address, registry_uri=address)
    except STORE_ERRORS as error:
        raise TrackingError(
            f"The tracking store cannot be opened: {reason(error)}",
            where=shown(address),
            remedy="Set MLFLOW_TRACKING_URI to a server (http://...) or a database (sqlite:///mlflow.db).",
        ) from error


def experiment_id(client: MlflowClient, name: str) -> str:
    """The id of the experiment ``name``, made if there is none; with SQLite its artifacts lie beside the database."""
    found = client.get_experiment_by_name(name)
    if found is not None:
        if found.lifecycle_stage != "active":
            raise TrackingError(
                f"The experiment '{name}' was deleted.",
                remedy="Restore it (mlflow experiments restore) or choose another name.",
            )
        return str(found.experiment_id)
    database = _sqlite_file(client.tracking_uri)
    location = None
    if database is not None:
        location = (database.parent / "mlruns" / (re.sub(r"[^\w.-]+", "-", name).strip(".-") or "experiment")).as_uri()
    try:
        return str(client.create_experiment(name, artifact_location=location))
    except MlflowException as error:
        if error.error_code == "RESOURCE_ALREADY_EXISTS":  # another process made it in between
            return experiment_id(client, name)
        raise


def delete_run(run_id: str, uri: str | None = None) -> None:
    """Take a run out of its experiment, as in MLflow's own pages: ``mlflow gc`` frees its space.

    Raises TrackingError if the store does not take it.
    """
    client = open_client(uri)
    try:
        client.delete_run(run_id)
    except STORE_ERRORS as error:
        raise TrackingError(
            f"The run {run_id} cannot be deleted: {reason(error)}",
            where=shown(client.tracking_uri),
            remedy="Delete it in MLflow.",
        ) from error


def refused(error: BaseException) -> bool:
    """Whether the store understood and said no, so that another attempt would end the same way."""
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return error.response.status_code in _REFUSED_FILES
    return isinstance(error, MlflowException) and error.error_code in _REFUSALS


def missing(error: BaseException) -> bool:
    """Whether the store answered that it does not hold what was asked for."""
    return isinstance(error, MlflowException) and error.error_code == "RESOURCE_DOES_NOT_EXIST"


def reason(error: BaseException, limit: int = 300) -> str:
    """Why a call failed, in a line."""
    cause = error.__cause__ or error.__context__ or error
    if isinstance(cause, requests.Timeout):
        return "no answer in time"
    if isinstance(cause, requests.ConnectionError):
        return "no connection"
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:limit].rstrip(".")


def shown(uri: str) -> str:
    """``uri`` as it may be shown: no user, no password, no query, of a SQLite store no more than the file's name."""
    database = _sqlite_file(uri)
    if database is not None:
        return f"sqlite:///{database.name}"
    parts = urlsplit(uri)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _sqlite_file(uri: str) -> Path | None:
    """The absolute path of a SQLite store's file, None for other stores."""
    path = uri.partition("?")[0].removeprefix("sqlite:///")
    if path == uri or path in ("", ":memory:"):
        return None
    return Path(path).absolute()


def _check_writable(database: Path) -> None:
    """Raise TrackingError at once where MLflow would try ten times over two minutes."""
    try:
        database.parent.mkdir(parents=True, exist_ok=True)
        with database.open("ab"):
            pass
    except OSError as error:
        raise TrackingError(
            f"The tracking database cannot be written: {error.strerror}.",
            where=database,
            remedy="Choose a folder that you may write to, or set MLFLOW_TRACKING_URI.",
        ) from error
