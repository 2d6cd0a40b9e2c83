"""The training loop: one for every network and every objective."""

from __future__ import annotations

import atexit
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from rich.console import Console
from torch import nn

from medae.config import to_dict
from medae.errors import TrainingError
from medae.objectives.base import Objective
from medae.tracking.base import Tracker
from medae.training.config import FitConfig
from medae.training.determinism import deterministic
from medae.training.faults import Interrupts, explained
from medae.training.finetuning import TuningConfig
from medae.training.learner import Learner
from medae.training.progress import Display
from medae.training.run import Augment, Hooks, Probing, TrainingRun, Validate
from medae.training.source import BatchSource

PATIENCE_OF_PROCESSES = timedelta(hours=2)
"""How long processes wait for the main one, which validates alone."""


@dataclass(frozen=True)
class FitResult:
    """What a training came to.

    steps: done in all. best_step: the step whose weights the model holds. best_value: their monitored metric.
    history: a record an epoch. seconds: spent in all, earlier parts of a resumed training included.
    """

    steps: int
    best_step: int
    best_value: float | None
    history: list[dict[str, float]]
    seconds: float
    stopped_early: bool


def fit(
    model: nn.Module,
    objective: Objective,
    source: BatchSource,
    config: FitConfig,
    *,
    folder: Path,
    tracker: Tracker,
    augment: Augment | None = None,
    validate: Validate | None = None,
    probe: Probing | None = None,
    on_epoch: Sequence[Callable[[nn.Module, int], None]] = (),
    tuning: TuningConfig | None = None,
    identity: str = "",
    resume: bool = False,
    cpu: bool = False,
    name: str = "",
    console: Console | None = None,
) -> FitResult:
    """Train ``model`` and leave in it the weights to keep.

    Those are the best by ``config.monitor`` if it is given, else the last; with ``config.ema`` those of the moving
    average. The model ends on the training device, in evaluation mode.

    folder: ``checkpoints/`` in it is written at the end of each epoch and when the training is asked to stop; a folder
    shared by all processes. tracker: started; gets the numbers of each epoch; the caller ends it. To go on in the same
    run, reopen it with ``checkpoint.stored_run_id(folder)``; another run gets the whole history again.
    augment: works on the training device. validate: metrics by name, of the model to keep; on the main process only, as
    are ``probe``, which gives more metrics and is told the step, so that it may leave epochs out, and the ``on_epoch``
    callbacks (model, step), which come last. All see the model in evaluation mode, in fp32, and are called again with
    the same weights and random numbers if a kill loses their epoch.
    tuning: of a pretrained network: each weight's share of the learning rate by step; None is 1 for all.
    identity: digest of what else decides the result (data, network, objective), compared on resuming.
    resume: go on from the checkpoint in ``folder``, if there is one: in the same bits, on the same number of threads,
    device and versions (a difference is warned of). Without it, a folder with a checkpoint is an error, so that
    no training is lost by a forgotten option; ``checkpoint.discard(folder)`` clears it.
    cpu: use no accelerator, even if there is one. name: for the progress display. console: default standard error.

    A record of the history: ``step`` (steps done), ``loss`` and ``loss/<term>`` (means over the epoch's steps),
    ``gradient_norm``, ``rate`` (with ``tuning`` also ``rate/encoder``, of its coarsest level), the validation metrics,
    and ``seconds`` and ``samples_per_second`` of the epoch's steps.

    Raises TrainingError for a loss that is not finite, a full disk, exhausted memory, a checkpoint that does not fit;
    ``Interrupted``, a kind of it, after Ctrl-C or SIGTERM. The last checkpoint is whole in every case. A tracker that
    does not answer is warned of and gets what it missed later.
    """
    accelerator = _accelerator(cpu)
    setup = {"fit": config.decisive(), "identity": identity, "batch_size": source.batch_size}
    setup |= {"tuning": {} if tuning is None else to_dict(tuning)}
    console = console or Console(stderr=True)
    display = Display(console, name, config.steps, visible=accelerator.is_main_process)
    with explained(folder), deterministic(config.deterministic, accelerator.device) as uncertain:
        learner = Learner(model, objective, config, accelerator, tuning)
        run = TrainingRun(learner, source, folder, tracker, display, Hooks(augment, validate, tuple(on_epoch), probe))
        try:
            run.begin(setup, resume)
            with display.running(run.state.step), Interrupts() as interrupts:
                run.train(interrupts)
            step, weights = run.weights_to_keep()
            model.load_state_dict(weights)
        finally:
            learner.restore()
    if uncertain:
        display.warn(f"These have no deterministic form on this device: {', '.join(sorted(uncertain))}.")
    state = run.state
    return FitResult(state.step, step, state.best_value, state.history, state.seconds, state.stopped_early)


def _accelerator(cpu: bool) -> Accelerator:
    """Raises TrainingError if this process has trained on another device before: Accelerate keeps its first one."""
    try:
        accelerator = (
            Accelerator(  # precision is MixedPrecision's business: Accelerate keeps its own one for a whole process
                mixed_precision="no",
                cpu=cpu,
                kwargs_handlers=[
                    DistributedDataParallelKwargs(find_unused_parameters=True),
                    InitProcessGroupKwargs(timeout=PATIENCE_OF_PROCESSES),
                ],
            )
        )
    except ValueError as error:
        if "already been initialized" not in str(error):
            raise
        raise _other_device("an accelerator", "the CPU") from error
    if accelerator.device.type == "cpu" and not cpu and torch.cuda.is_available():
        raise _other_device("the CPU", "an accelerator")
    if accelerator.num_processes > 1:
        atexit.unregister(leave_processes)
        atexit.register(leave_processes)
    return accelerator


def leave_processes() -> None:
    """Leave the group of processes, if there is one: a process that ends while threads of the group work may be aborted."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _other_device(before: str, now: str) -> TrainingError:
    return TrainingError(
        f"This process has trained on {before} and cannot change to {now}.",
        where="device",
        remedy="Give all trainings of one process the same device, or run this one in a process of its own.",
    )
