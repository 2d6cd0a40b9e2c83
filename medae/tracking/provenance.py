"""Which code and which machine made a result: revision, package versions, hardware. No name of a user or a host, no path."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

import medae

PACKAGES = ("medae", "torch", "monai", "numpy", "mlflow", "accelerate", "nibabel", "scipy")


def provenance() -> dict[str, str]:
    """Facts for tags and for a model's record; ``git.revision`` and ``git.dirty`` are left out outside a git checkout."""
    facts = {f"version.{name}": found for name in PACKAGES if (found := package_version(name)) is not None}
    facts["version.python"] = platform.python_version()
    facts["machine.system"] = f"{platform.system()} {platform.machine()}"
    facts["machine.cpus"] = str(os.cpu_count())
    facts["machine.threads"] = str(torch.get_num_threads())
    if torch.cuda.is_available():
        facts["machine.gpus"] = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        facts["version.cuda"] = str(torch.version.cuda)
    return facts | git_state(Path(str(medae.__file__)).parent)


def git_state(folder: Path) -> dict[str, str]:
    """Revision of the checkout that ``folder`` belongs to, and whether tracked files in it differ (``true``/``false``).

    Empty if git is missing, or the folder is not part of a checkout: installed packages lie inside somebody's
    checkout when the environment does, and that one's revision says nothing about them.
    """
    if not _git(folder, "ls-files", "--", "."):
        return {}
    revision = _git(folder, "rev-parse", "HEAD")
    if not revision:
        return {}
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return {"git.revision": revision, "git.dirty": "unknown" if changes is None else str(bool(changes)).lower()}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
            env=_git_environment(),
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _git_environment() -> dict[str, str]:
    # Inside a git hook these point at the repository of the hook, whatever -C says.
    return {key: value for key, value in os.environ.items() if key not in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")}


def package_version(package: str) -> str | None:
    """The version of an installed package without the mark of its build (``+cpu``), None if it is not installed."""
    try:
        return version(package).partition("+")[0]
    except PackageNotFoundError:
        return None
