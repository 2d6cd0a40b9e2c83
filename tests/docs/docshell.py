"""Runs documented commands: those of ``medae`` in this process and made small, others are checked as far as can be."""

from __future__ import annotations

import json
import os
import re
import sys
import tomllib
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import pytest
from docpages import ROOT
from docweb import served
from mlflow.cli import cli as mlflow_commands

from medae.config import to_dict, validate
from pipelines import cli
from pipelines.configs import read_config
from pipelines.curve_budget import Matrix
from pipelines.curve_config import read_curve
from pipelines.run import read_pipeline, stage_config
from pipelines.stage import KINDS, program_of

GIVEN = ("MEDAE_DATA", "MLFLOW_TRACKING_URI")
"""Variables that a page sets for its reader and the test for itself."""

ONE_CELL = ("diagnosis.contrasts=[0.4]", "diagnosis.radii=[9.0]", "diagnosis.blurs=[0.0]", "diagnosis.lesions=2")
SMALLEST = Matrix(("scratch", "masked"), {1: 1}, steps=2, pretrain_steps=2)
"""What a curve with a budget is made to."""

MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8").replace("$(JOBS)", "2")


@dataclass
class Shell:
    """A working folder in which commands are run one after another.

    patch: holds the folder and the environment. placeholders: words in commands that stand for what only a run decides.
    public: the data set that ``medae data get`` fetches, whatever it is asked for, from a server on this machine.
    """

    patch: pytest.MonkeyPatch
    placeholders: Mapping[str, str] = field(default_factory=dict)
    public: Path | None = None

    def run(self, words: list[str], *, fails: bool = False) -> None:
        """Run a command, or check it. fails: whether a user's error is meant. Raises AssertionError if it does not work."""
        words = self._settings(words)
        if words and words[0] == "medae":
            self._medae(words[1:], fails)
        elif words:
            CHECKS[program(words[0])](words[1:])

    def _medae(self, words: list[str], fails: bool) -> None:
        arguments = [name for word in words for name in self._expanded(word)]
        is_fetched = arguments[:2] == ["data", "get"] and self.public is not None
        with served(self.public, arguments, self.patch) if is_fetched else nullcontext(arguments) as arguments:
            self.patch.setattr("pipelines.curve_planning.choose", lambda *_: SMALLEST)
            self.patch.setattr("pipelines.curve_budget.RATES", (0.001, 0.002))
            # processes of their own have tests of their own, and would take seconds each to begin
            self.patch.setattr("pipelines.curve.side_by_side", lambda task, *_: task())
            changes = [] if fails else small(arguments)
            if arguments[0] == "detect" and "--folds" in arguments:
                arguments[arguments.index("--folds") + 1] = "2"
            if arguments[0] == "run" and arguments[1].endswith("_gpu"):
                return  # it fits, and at this size it is the one without _gpu
            self.patch.setattr(sys, "argv", ["medae", *arguments, *changes])
            with pytest.raises(SystemExit) as ended:
                cli.main()
        assert (ended.value.code or 0) == (2 if fails else 0), f"exit status {ended.value.code}"

    def _settings(self, words: list[str]) -> list[str]:
        """Take ``export NAME=value``, ``$env:NAME = value`` and leading ``NAME=value`` into the environment."""
        if words[0].startswith("$env:") and words[1] == "=":
            words = [f"{words[0].removeprefix('$env:')}={words[2]}", *words[3:]]
        elif words[0] == "export":
            words = words[1:]
        while words and (match := re.fullmatch(r"([A-Z_]+)=(.*)", words[0])):
            if match[1] not in GIVEN:
                self.patch.setenv(match[1], match[2])
            words = words[1:]
        return words

    def _expanded(self, word: str) -> list[str]:
        """A word with variables, placeholders and ``*`` replaced, as a shell would do."""
        word = os.path.expandvars(re.sub(r"\$env:(\w+)", r"$\1", word))
        for name, value in self.placeholders.items():
            word = word.replace(name, value)
        found = sorted(str(path) for path in Path().glob(word)) if "*" in word and "=" not in word else []
        return found or [word]


def small(arguments: list[str]) -> list[str]:
    """Overrides that make a training end in a second. The configuration is validated before, as it is documented."""
    kind, overrides = arguments[0], [value for option, value in pairwise(arguments) if option == "--set"]
    if "--help" in arguments:
        changes = []
    elif kind in KINDS:
        model = {option[2:]: value for option, value in pairwise(arguments) if option in ("--encoder", "--model")}
        content = read_config(arguments[1], kind, overrides, model)
        validate(program_of(kind).Config, content, where=arguments[1])
        changes = _changes(kind, content) + (["labelled=5"] if kind == "finetune" and "--folds" in arguments else [])
    elif kind in ("run", "demo"):
        _, stages = read_pipeline("demo" if kind == "demo" else arguments[1], overrides)
        for label, (stage, content) in stages.items():
            stage_config(stage, content, dict.fromkeys(stages, "."), where=label)
        changes = [f"{label}.{change}" for label, (stage, content) in stages.items() for change in _changes(stage, content)]
    elif kind == "diagnose":
        changes = list(ONE_CELL)
    elif kind == "curve" and "--budget" in arguments:
        content = read_config("hippocampus", "finetune")
        changes = [f"{kind}.set.{change}" for kind in ("pretrain", "finetune") for change in _changes(kind, content)]
        changes = [change for change in changes if "labelled=" not in change and ".fit." not in change]
    elif kind == "curve":
        changes = _curve_changes(arguments, overrides)
    else:
        changes = []
    return [word for change in changes for word in ("--set", change)]


def _curve_changes(arguments: list[str], overrides: list[str]) -> list[str]:
    """The arms that are named, else two, one number of labels, one draw, no search for rates and no length by seconds."""
    written = read_curve(arguments[1], overrides)
    options = dict(pairwise(arguments))
    counts = options.get("--labelled", str(written.curve.labelled[0]))
    count = counts.split(",")[0]
    arms = to_dict(written.curve)["arms"]
    named = (
        options["--arms"].split(",") if "--arms" in options else [name for name in arms if not arms[name]["as_long_as"]][:2]
    )
    fixed = {"rate": 0.001, "rate_of": None, "as_long_as": None, "labelled": [count if count == "all" else int(count)]}
    kept = {name: arms[name] | fixed for name in named}
    changes = [f"labelled=[{counts}]", "draws=1", f"search.labelled=[{count}]", "search.set={fit: {steps: 2}}"]
    changes += ["search.rates=[0.001, 0.002]", "search.bounds=[0.001, 0.002]", f"arms={json.dumps(kept)}"]
    for kind, content in (("pretrain", written.pretrain), ("finetune", written.finetune)):
        own = [] if content is None else _changes(kind, content)
        changes += [f"{kind}.set.{change}" for change in own if not change.startswith("labelled=")]
    return changes


def _changes(kind: str, content: Mapping[str, Any]) -> list[str]:
    plan = content.get("plan", {})
    is_flat = plan.get("spatial_dims") == 2 or plan.get("slice_axis") is not None
    changes = [
        "split.test=2",
        "split.validation=2",
        "fit.steps=2",
        "fit.epoch_steps=2",
        "fit.schedule.warmup=1",
        "fit.workers=0",
    ]
    if "file" not in plan:
        changes += ["plan.widths=[4, 8]", f"plan.patch={[32, 40] if is_flat else [24, 24, 24]}", "plan.batch=2"]
        changes += ["plan.levels=2"] if "levels" in plan else []
        spacing = ", ".join("null" if step is None else "6.0" for step in plan.get("spacing", ()))
        changes += [f"plan.spacing=[{spacing}]"] if spacing else []
    if content.get("diagnosis"):
        changes += [
            *ONE_CELL,
            "scoring.place.align=box",
        ]  # a registration takes a third of a second, and has tests of its own
    if content.get("probe"):
        changes += ["probe.labelled=2", "probe.scored=4"]
    if content["data"].get("format") == "phantom":
        changes += ["data.subjects=10", "data.spacing=6.0"]
    if content["data"].get("format") == "rendered":
        changes += ["data.renderings=1"]
    # all six training subjects where some choose, so that these hold a lesion
    own = f"labelled={6 if content.get('selection') else 2}" if kind == "finetune" else "validation_batches=1"
    return [*changes, own]


def program(name: str) -> str:
    """The program that a command calls, whatever the folder it is called in and its version."""
    found = re.sub(r"(\.exe|3|3\.\d+)$", "", name.rpartition("/")[2])
    return {"py": "python", ".": "source"}.get(found, found)


def _make(words: list[str]) -> None:
    targets = [word for word in words if "=" not in word]
    assert all(re.search(rf"^{target}:", MAKEFILE, re.MULTILINE) for target in targets), (
        f"no target {targets} in the Makefile"
    )


def _as_in_makefile(name: str) -> Callable[[list[str]], None]:
    def check(words: list[str]) -> None:
        line = " ".join([name, *words])
        assert re.search(rf"/{re.escape(line)}(\s|$)", MAKEFILE), f"'{line}' is not what the Makefile calls"

    return check


def _python(words: list[str]) -> None:
    words = [word for word in words if not re.fullmatch(r"-3\.\d+", word)]  # the version that Windows' py is asked for
    if words[0] != "-m":
        assert (ROOT / words[0]).is_file(), f"there is no {words[0]}"
    elif words[1] == "pip":
        _pip(words[2:])
    else:
        assert find_spec(words[1]) is not None, f"there is no module {words[1]}"


def _pip(words: list[str]) -> None:
    """The same constraints and extras as ``make setup``."""
    (call,) = re.findall(r"-m pip (.*)", MAKEFILE)
    assert words == [word.strip("'") for word in call.split() if word != "--quiet"]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(re.findall(r"\w+", words[-1])) <= set(extras)


def _mlflow(words: list[str]) -> None:
    """The options exist; what it would start runs until it is stopped."""
    group: Any = mlflow_commands
    command = group.get_command(click.Context(group), words[0])
    assert command is not None, f"mlflow has no command {words[0]}"
    command.make_context(words[0], words[1:])


def _activate(words: list[str]) -> None:
    assert words == [".venv/bin/activate"]


def _nothing(words: list[str]) -> None:
    """Another program's command, of which nothing here can tell whether it works."""


CHECKS: dict[str, Callable[[list[str]], None]] = {
    "make": _make,
    "python": _python,
    "mlflow": _mlflow,
    "source": _activate,
    "Activate.ps1": _nothing,
    "git": _nothing,
    "cd": _nothing,
    **{name: _as_in_makefile(name) for name in ("ruff", "mypy", "lint-imports", "pytest")},
}
"""Programs that a page may name beside ``medae``. They need a network or another machine, last long, or change this one."""
