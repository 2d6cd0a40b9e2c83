"""The toy training as a module, and the one way the tests call ``fit`` with it."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path

import pytest
import torch
from rich.console import Console

from medae.training.loop import fit


@pytest.fixture(scope="session")
def toy():
    spec = importlib.util.spec_from_file_location("toy", Path(__file__).with_name("toy.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def train(toy):
    """``train(folder, config, ...)`` -> (result, model, text on the console); each part can be replaced."""

    def run(folder, config=None, *, console=None, **changes):
        model = changes.pop("model", None) or toy.Net()
        console = console or io.StringIO()
        parts = {
            "objective": toy.Denoise(),
            "source": toy.Source(),
            "tracker": toy.FileTracker(folder / "tracker.jsonl", "run"),
            "augment": toy.flip,
            "validate": toy.validate,
            "cpu": True,
        } | changes
        folder.mkdir(exist_ok=True)
        result = fit(
            model,
            parts.pop("objective"),
            parts.pop("source"),
            config or toy.config(),
            folder=folder,
            console=Console(file=console, width=200),
            **parts,
        )
        return result, model, console.getvalue()

    return run


@pytest.fixture
def same_weights():
    """Whether two models hold the same bits."""

    def compare(one, other):
        theirs = other.state_dict()
        return all(torch.equal(value, theirs[name]) for name, value in one.state_dict().items())

    return compare
