"""One run of the training loop: steps, the end of an epoch, and what is kept of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from medae.errors import DivergedError, Interrupted, TrackingError, TrainingError
from medae.parallel import usable_cores
from medae.preprocessing.batch import Batch
from medae.seeding import Draw, seed_for, seeded_step
from medae.tracking.base import Tracker
from medae.training import checkpoint
from medae.training.faults import Interrupts, disk_full, resume_hint
from medae.training.learner import Learner
from medae.training.progress import Display
from medae.training.schedule import rate_factor
from medae.training.source import SHARE_EVERY, BatchSource, Losses, local_batch
from medae.training.state import TrainingState, check_same_setup, environment, environment_changes, mean_of_rows

Augment = Callable[[Batch, Draw], Batch]
Validate = Callable[[nn.Module], Mapping[str, float]]
Probing = Callable[[nn.Module, int], Mapping[str, float]]


@dataclass(frozen=True)
class Hooks:
    """What the caller of ``fit`` adds to the loop; see there."""

    augment: Augment | None
    validate: Validate | None
    on_epoch: tuple[Callable[[nn.Module, int], None], ...]
    probe: Probing | None = None


class TrainingRun:
    """The loop around a learner: where it stands (``state``), where it writes, who is told."""

    def __init__(
        self, learner: Learner, source: BatchSource, folder: Path, tracker: Tracker, display: Display, hooks: Hooks
    ) -> None:
        self.learner, self.source, self.hooks = learner, source, hooks
        self.folder, self.tracker, self.display = folder, tracker, display
        self.config, self.accelerator = learner.config, learner.accelerator
        self.local = local_batch(source, self.accelerator.num_processes)
        self.state = TrainingState()
        self._setup: Mapping[str, Any] = {}
        self._environment = environment(self.accelerator.device, learner.dtype, self.accelerator.num_processes)
        self._saved_step = 0
        self._warned_of_tracker = False
        self._began = self._epoch_began = time.perf_counter()
        self._epoch_first = 0

    def begin(self, setup: Mapping[str, Any], resume: bool) -> None:
        """Start at step 0, or at the checkpoint; ``setup`` is what the two must share."""
        self._setup = setup
        found = checkpoint.load(self.folder)
        if found is not None and not resume:
            raise TrainingError(
                f"The folder holds the checkpoint of a training at step {found.step}.",
                where=self.folder,
                remedy="Go on with --resume (Python: resume=True), choose another folder, or remove its 'checkpoints'.",
            )
        if found is not None:
            self._go_on_from(found)
        self.state.run_id = self.tracker.run_id
        self._deliver()

    def _go_on_from(self, found: checkpoint.Checkpoint) -> None:
        check_same_setup(found.facts["setup"], self._setup)
        if found.step > self.config.steps:
            raise TrainingError(
                f"The checkpoint has done {found.step} steps, more than the {self.config.steps} that are asked for.",
                where="fit.steps",
                remedy="Ask for at least as many, or start anew in another folder.",
            )
        self.learner.load(found.tensors, found.facts["scaler"])
        self.state = TrainingState.restore(found.facts["state"])
        self._saved_step = found.step
        if self.state.run_id != self.tracker.run_id:
            self.state.delivered = 0
        self.display.note(f"Going on after step {found.step} of {self.config.steps}.")
        changes = environment_changes(found.facts["environment"], self._environment)
        if changes:
            self.display.warn(f"Resumed elsewhere, so the last bits may differ ({'; '.join(changes)}).")

    def train(self, interrupts: Interrupts) -> None:
        """All steps that are left. Raises Interrupted, after a checkpoint, if a signal asked to stop."""
        config, state, accelerator = self.config, self.state, self.accelerator
        if state.stopped_early:
            return
        processes, on_cpu = accelerator.num_processes, accelerator.device.type == "cpu"
        workers = min(config.workers, usable_cores())
        batches = self.source.batches(state.step, config.steps, accelerator.process_index, processes, workers)
        losses = Losses(accelerator, state.step - len(state.rows), state.rows)
        stop = False
        self._begin_epoch()
        for step in range(state.step, config.steps):
            losses.add(self._step(step, next(batches, None)))
            state.step = step + 1
            asked = interrupts.received is not None
            ends = state.step % config.epoch_steps == 0 or state.step == config.steps
            if ends or state.step % SHARE_EVERY == 0 or (processes == 1 and (asked or on_cpu)):
                stop = self._look(losses, asked)
            if ends:
                self._end_epoch(losses.rows)
                losses = Losses(accelerator, state.step)
            if stop and self._saved_step != state.step:
                state.rows = losses.rows
                self._save(best=None)
            if stop or state.stopped_early:
                break
        if stop or interrupts.received is not None:
            cause = "" if interrupts.received is None else f" by {interrupts.received.name}"
            raise Interrupted(
                f"Training was interrupted{cause} after step {state.step} of {config.steps}.",
                where=self.folder,
                remedy=resume_hint(self.folder),
            )

    def _step(self, step: int, batch: Batch | None) -> dict[str, Tensor]:
        """One step; its losses, on the device."""
        if batch is None:
            raise TrainingError(
                f"The source of batches ended before step {step} of {self.config.steps}.",
                where=type(self.source).__name__,
                remedy="A source has to give a batch for every step that it is asked for.",
            )
        config, process = self.config, self.accelerator.process_index
        draw = Draw(config.seed, step, process * self.local)
        with seeded_step(config.seed, step, process):
            batch = batch.to(self.accelerator.device)
            if self.hooks.augment is not None:
                batch = self.hooks.augment(batch, draw.scoped("augmentation"))
            return self.learner.step(batch, draw.scoped("objective"), self._rate(step))

    def _rate(self, step: int) -> float:
        return self.config.rate * rate_factor(step, self.config.steps, self.config.schedule)

    def _rates(self, step: int) -> dict[str, float]:
        """For the record: the rate outside the encoder and, if it is tuned, that of its coarsest level."""
        rate = self._rate(step)
        rates = {"rate": rate * self.learner.share(0, step)}
        return rates if self.learner.tuning is None else rates | {"rate/encoder": rate * self.learner.share(1, step)}

    def _look(self, losses: Losses, asked: bool) -> bool:
        """Fetch the losses and show them. Returns whether to stop; raises TrainingError if training diverged."""
        problem = losses.fetch(asked)
        if problem is not None:
            raise DivergedError(
                problem,
                where=self.folder,
                remedy="Lower fit.rate, set fit.clip or fit.precision: fp32, check the data, and start anew in another "
                f"folder. {resume_hint(self.folder)}",
            )
        self.display.step(self.state.step, losses.rows[-1].get("loss", float("nan")), self.source.batch_size)
        return losses.stop

    def _begin_epoch(self) -> None:
        self._epoch_began, self._epoch_first = time.perf_counter(), self.state.step

    def _end_epoch(self, rows: list[dict[str, float]]) -> None:
        """Validate, choose, tell, and only then write the checkpoint: a kill before it repeats all of that."""
        state, samples = self.state, (self.state.step - self._epoch_first) * self.source.batch_size
        seconds = time.perf_counter() - self._epoch_began
        record = {"step": state.step, **mean_of_rows(rows), **self._rates(state.step - 1)}
        record |= {"seconds": seconds, "samples_per_second": samples / seconds}
        record |= self._validate(reserved=record)
        better = state.judge(record, self.config, sparse=self.hooks.probe is not None)
        state.rows = []
        state.history.append(record)
        self._deliver()
        if self.accelerator.is_main_process:
            for callback in self.hooks.on_epoch:
                with seeded_step(seed_for(self.config.seed, "on_epoch"), state.step):
                    callback(self.learner.kept.eval(), state.step)
        self._save(best=self.learner.kept.state_dict() if better else None)
        self.learner.train()
        self.display.epoch(record, self.config.monitor)
        self._begin_epoch()

    def _validate(self, reserved: Mapping[str, float]) -> dict[str, float]:
        """The metrics of validation and probe, computed by the main process and known to all."""
        shared: list[dict[str, float]] = [{}, {}]
        if self.accelerator.is_main_process:
            kept, step = self.learner.kept.eval(), self.state.step
            with seeded_step(seed_for(self.config.seed, "validation"), step), torch.no_grad():
                validated = {} if self.hooks.validate is None else self.hooks.validate(kept)
            with seeded_step(seed_for(self.config.seed, "probe"), step), torch.no_grad():
                probed = {} if self.hooks.probe is None else self.hooks.probe(kept, step)
            shared = [{name: float(value) for name, value in found.items()} for found in (validated, probed)]
        broadcast_object_list(shared)
        validated, probed = shared
        clash = sorted(set(validated) & set(reserved))
        if clash:
            raise TrainingError(
                f"A validation metric has the name of a training one: {', '.join(clash)}.",
                where="validate",
                remedy="Name it otherwise, e.g. 'validation/loss'.",
            )
        clash = sorted(set(probed) & {*validated, *reserved})
        if clash:
            raise TrainingError(
                f"A metric of the probe has the name of another one: {', '.join(clash)}.",
                where="probe",
                remedy="Name it otherwise, e.g. 'probe/dice'.",
            )
        return {**validated, **probed}

    def _deliver(self) -> None:
        """Send the tracker what it has not had yet. If it does not answer, the history keeps the numbers for later."""
        if not self.accelerator.is_main_process:
            return
        for record in self.state.history[self.state.delivered :]:
            try:
                self.tracker.metrics({name: value for name, value in record.items() if name != "step"}, int(record["step"]))
            except (TrackingError, OSError) as error:
                if disk_full(error):
                    raise
                if not self._warned_of_tracker:
                    self.display.warn("The tracker does not answer. Training goes on; the numbers are sent later.")
                self._warned_of_tracker = True
                return
            self.state.delivered += 1

    def _save(self, best: Mapping[str, Tensor] | None) -> None:
        """Write the checkpoint of this step; the processes go on together."""
        state, now = self.state, time.perf_counter()
        state.seconds, self._began = state.seconds + now - self._began, now
        if self.accelerator.is_main_process:
            facts = {
                "run_id": state.run_id,
                "steps": self.config.steps,
                "environment": self._environment,
                "setup": self._setup,
                "scaler": self.learner.scaler_facts(),
                "state": state.facts(),
            }
            checkpoint.save(self.folder, state.step, self.learner.tensors(), facts, best)
        self._saved_step = state.step
        self.accelerator.wait_for_everyone()

    def weights_to_keep(self) -> tuple[int, Mapping[str, Tensor]]:
        """The step and the network's weights that the training chose: the best by the monitor, else the last.

        Says so if there was a monitor and no epoch gave it a value.
        """
        if self.state.best_step is None:
            if self.config.monitor is not None:
                self.display.warn(
                    f"No epoch has a value of '{self.config.monitor}' to choose the weights by: the last ones are kept."
                )
            return self.state.step, self.learner.kept.state_dict()
        return self.state.best_step, checkpoint.load_best(self.folder)
