"""A real but tiny training: convolutions, batch norm, dropout, noise to remove, random flips. Also a program.

``python toy.py FOLDER [key=value ...]`` trains (always with ``resume=True``) and leaves ``result.safetensors`` and
``result.json`` in FOLDER. ``beat`` in it receives the number of each step as it begins.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import nn

from medae.models.output import Output
from medae.objectives.base import Loss, Objective
from medae.preprocessing.batch import Batch
from medae.seeding import numpy_generator
from medae.training import checkpoint
from medae.training.config import FitConfig
from medae.training.finetuning import DecoderFirst
from medae.training.loop import fit
from medae.training.state import TIMING


class Net(nn.Module):
    def __init__(self, dropout=0.3, norm=True):
        super().__init__()
        torch.manual_seed(7)
        middle = [nn.BatchNorm2d(6)] if norm else []
        self.encoder = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), *middle, nn.LeakyReLU(), nn.Dropout(dropout))
        self.head = nn.Conv2d(6, 1, 3, padding=1)

    def forward(self, image):
        return Output((self.head(self.encoder(image)),))


class Denoise(Objective):
    """Remove noise; ``shift`` is a trained parameter of the objective's own."""

    corrupts = True

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(1))

    def forward(self, model, batch, draw):
        noise = draw.scoped("noise").normal(len(batch), tuple(batch.image.shape[1:]))
        difference = model(batch.image + 0.3 * noise).finest + self.shift - batch.image
        terms = {"l1": difference.abs().mean(), "l2": difference.square().mean()}
        return [Loss(terms["l1"] + terms["l2"], terms)]


class Source:
    """Smooth random images, a pure function of step and place."""

    batch_size = 4

    def __init__(self, beat=None, pause=0.0):
        self.beat, self.pause = beat, pause

    def batch(self, step, process=0, processes=1):
        local = self.batch_size // processes
        places = range(process * local, (process + 1) * local)
        rows = [numpy_generator(3, "toy", step, place).standard_normal((1, 5, 5)) for place in places]
        rows = torch.from_numpy(np.stack(rows)).float()
        image = nn.functional.interpolate(rows, size=(13, 16), mode="bilinear")
        return Batch(image, torch.ones(local, 1, dtype=torch.bool), torch.ones_like(image, dtype=torch.bool))

    def batches(self, start, stop, process=0, processes=1, workers=0):
        for step in range(start, stop):
            if self.beat:
                self.beat.write_text(str(step))
            time.sleep(self.pause)
            yield self.batch(step, process, processes)


def flip(batch, draw):
    turned = draw.uniform(len(batch)) < 0.5
    image = torch.where(turned[:, None, None, None], batch.image.flip(-1), batch.image)
    return Batch(image, batch.present, batch.mask)


def validate(model):
    image = Source().batch(10_000).image
    return {"validation/l1": float((model(image).finest - image).abs().mean())}


class FileTracker:
    """Keeps numbers in a file and, like every tracker, does not take a step twice."""

    def __init__(self, path, run_id):
        self.path, self.run_id = path, run_id
        lines = path.read_text().splitlines() if path.exists() else []
        self.steps = [json.loads(line)["step"] for line in lines]

    def metrics(self, values, step):
        if step not in self.steps:
            self.steps.append(step)
            with self.path.open("a") as file:
                file.write(json.dumps({"run": self.run_id, "step": step, **values}) + "\n")


def config(**changes):
    settings = {"steps": 40, "epoch_steps": 8, "rate": 3e-3, "ema": 0.8, "monitor": "validation/l1", "mode": "min"}
    settings["schedule"] = {"warmup": 5}
    return FitConfig.model_validate(settings | changes)


def without_timing(history):
    return [{name: value for name, value in record.items() if name not in TIMING} for record in history]


def die_in_save(step):
    """SIGKILL this process when half of the checkpoint of ``step`` is written."""
    whole = checkpoint.save_file

    def half(tensors, path):
        if path.parent.name.endswith(f"{step:08d}"):
            path.write_bytes(safetensors.torch.save(tensors)[:1000])
            os.kill(os.getpid(), signal.SIGKILL)
        whole(tensors, path)

    checkpoint.save_file = half


def main(folder, **options):
    if "die_in_save" in options:
        die_in_save(int(options["die_in_save"]))
    plain = options.get("plain") == "1"
    model = Net(0.0, norm=False) if plain else Net()
    source = Source(folder / "beat", float(options.get("pause", 0)))
    tracker = FileTracker(folder / "tracker.jsonl", checkpoint.stored_run_id(folder) or f"run-{os.getpid()}")
    settings = config(steps=int(options.get("steps", 40)), precision="fp32" if plain else "auto")
    result = fit(
        model,
        Denoise(),
        source,
        settings,
        folder=folder,
        tracker=tracker,
        augment=flip,
        validate=validate,
        tuning=DecoderFirst(lasts=6, warmup=2) if options.get("tuning") == "decoder_first" else None,
        resume=True,
        cpu=True,
    )
    history = without_timing(result.history)
    if os.environ.get("RANK", "0") == "0":
        safetensors.torch.save_file(model.state_dict(), folder / "result.safetensors")
        (folder / "result.json").write_text(json.dumps({"history": history, "best_step": result.best_step}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), **dict(option.split("=") for option in sys.argv[2:]))
