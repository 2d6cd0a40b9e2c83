"""What ends a training from outside, and what is left of it."""

from __future__ import annotations

import errno
import math
import signal
from dataclasses import replace

import pytest
import torch

from medae.errors import Interrupted, TrackingError, TrainingError
from medae.training import checkpoint


def acting(toy, step, act):
    """A source that calls ``act`` when the batch of ``step`` is asked for."""

    class Acting(toy.Source):
        def batches(self, start, stop, *rest):
            for place, batch in enumerate(super().batches(start, stop, *rest), start=start):
                if place == step:
                    act()
                yield batch

    return Acting()


def failing(toy, step, error):
    """An objective whose ``step`` ends in an error, or in a loss that is ``error``."""

    class Failing(toy.Denoise):
        def forward(self, model, batch, draw):
            losses = super().forward(model, batch, draw)
            if draw.step == step and isinstance(error, BaseException):
                raise error
            if draw.step == step and callable(error):
                error()
            if draw.step == step:
                losses[0].total.data.fill_(error)
            return losses

    return Failing()


class TestStopping:
    @pytest.fixture(autouse=True)
    def usual_handler(self):
        """A process in the background may have inherited that Ctrl-C is ignored."""
        handler = signal.signal(signal.SIGINT, signal.default_int_handler)
        yield
        signal.signal(signal.SIGINT, handler)

    def test_an_ignored_signal_stays_ignored(self, train, tmp_path, toy):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        result, _, _ = train(tmp_path, source=acting(toy, 12, lambda: signal.raise_signal(signal.SIGINT)))
        assert result.steps == 40

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_a_signal_stops_after_the_step_and_the_rest_is_the_same(self, train, tmp_path, toy, same_weights, number):
        expected, straight, _ = train(tmp_path / "straight")
        handler = signal.getsignal(number)
        with pytest.raises(Interrupted, match=f"by {number.name} after step 13 of 40") as caught:
            train(tmp_path / "stopped", source=acting(toy, 12, lambda: signal.raise_signal(number)))
        assert "checkpoint of step 13 is intact: go on with --resume" in caught.value.remedy
        assert signal.getsignal(number) is handler
        result, resumed, text = train(tmp_path / "stopped", resume=True)
        assert "Going on after step 13 of 40" in text
        assert same_weights(straight, resumed)
        assert toy.without_timing(result.history) == toy.without_timing(expected.history)

    def test_the_second_signal_acts_as_always(self, train, tmp_path, toy):
        def impatient():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

        with pytest.raises(KeyboardInterrupt):
            train(tmp_path, source=acting(toy, 12, impatient))
        assert checkpoint.load(tmp_path).step == 8

    def test_a_signal_during_the_last_validation_is_not_lost(self, train, tmp_path, toy):
        def validate(model):
            signal.raise_signal(signal.SIGTERM)
            return toy.validate(model)

        with pytest.raises(Interrupted, match="after step 8 of 8"):
            train(tmp_path, toy.config(steps=8), validate=validate)
        result, _, _ = train(tmp_path, toy.config(steps=8), resume=True)
        assert result.steps == 8


class TestFaults:
    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_a_loss_that_is_no_number(self, train, tmp_path, toy, value):
        with pytest.raises(TrainingError, match=f"loss of step 19 is {value}") as caught:
            train(tmp_path, objective=failing(toy, 19, value))
        assert "checkpoint of step 16 is intact" in caught.value.remedy
        assert all(tensor.isfinite().all() for tensor in checkpoint.load(tmp_path).tensors.values())

    def test_a_gradient_that_is_no_number_never_reaches_a_checkpoint(self, train, tmp_path, toy):
        class Steep(toy.Denoise):
            def forward(self, model, batch, draw):
                (loss,) = super().forward(model, batch, draw)
                if draw.step < 15:
                    return [loss]
                # the last of its epoch: sqrt has an infinite slope at 0, and 0 times that is no number
                return [replace(loss, total=loss.total + (self.shift * 0).sqrt().sum())]

        with pytest.raises(TrainingError, match="gradient norm of step 15 is nan"):
            train(tmp_path, objective=Steep())
        assert all(tensor.isfinite().all() for tensor in checkpoint.load(tmp_path).tensors.values())

    @pytest.mark.parametrize(
        "error",
        [
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
            MemoryError(),
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp:114] DefaultCPUAllocator: not enough memory: you tried to allocate"
            ),
            lambda: torch.empty(2**50),
        ],
        ids=["cuda", "python", "windows", "really"],
    )
    def test_memory_exhausted(self, train, tmp_path, toy, error):
        with pytest.raises(TrainingError, match="Memory is exhausted") as caught:
            train(tmp_path, objective=failing(toy, 19, error))
        assert "Lower the batch size" in caught.value.remedy
        assert "checkpoint of step 16 is intact" in caught.value.remedy

    def test_a_loader_process_that_was_ended(self, train, tmp_path, toy):
        error = RuntimeError("DataLoader worker (pid 77) is killed by signal: Killed.")
        with pytest.raises(TrainingError, match=r"prepares batches was ended.*memory"):
            train(tmp_path, objective=failing(toy, 1, error))

    def test_our_own_faults_are_not_disguised(self, train, tmp_path, toy):
        with pytest.raises(RuntimeError, match="mat1 and mat2"):
            train(tmp_path, objective=failing(toy, 1, RuntimeError("mat1 and mat2 shapes cannot be multiplied")))

    def test_a_disk_that_fills_up_costs_only_what_came_after(self, train, tmp_path, monkeypatch, same_weights):
        _, straight, _ = train(tmp_path / "straight")
        whole = checkpoint.save_file

        def fill(tensors, path):
            if "24" in path.parent.name:
                raise checkpoint.SafetensorError("I/O error: No space left on device (os error 28)")
            whole(tensors, path)

        monkeypatch.setattr(checkpoint, "save_file", fill)
        with pytest.raises(TrainingError, match="disk is full") as caught:
            train(tmp_path / "filled")
        assert "checkpoint of step 16 is intact" in caught.value.remedy
        monkeypatch.undo()
        _, resumed, _ = train(tmp_path / "filled", resume=True)
        assert same_weights(straight, resumed)

    def test_a_source_that_ends_too_early(self, train, tmp_path, toy):
        class Short(toy.Source):
            def batches(self, start, stop, *rest):
                return super().batches(start, 10, *rest)

        with pytest.raises(TrainingError, match="ended before step 10 of 40"):
            train(tmp_path, source=Short())


class Moody:
    """A tracker that does not answer for some epochs."""

    def __init__(self, silent, error, run_id="run"):
        self.silent, self.error, self.run_id, self.got = set(silent), error, run_id, []

    def metrics(self, values, step):
        if step in self.silent:
            self.silent.remove(step)
            raise self.error
        self.got.append((step, values["loss"]))


class TestTracker:
    @pytest.mark.parametrize("error", [TrackingError("The server does not answer."), ConnectionRefusedError("refused")])
    def test_training_outlives_it_and_nothing_is_lost(self, train, tmp_path, error):
        tracker = Moody({16, 24}, error)
        result, _, text = train(tmp_path, tracker=tracker)
        assert tracker.got == [(record["step"], record["loss"]) for record in result.history]
        assert text.count("The tracker does not answer") == 1

    def test_a_disk_too_full_for_its_spool_ends_training(self, train, tmp_path):
        with pytest.raises(TrainingError, match="disk is full"):
            train(tmp_path, tracker=Moody({16}, OSError(errno.ENOSPC, "No space left on device")))
        assert checkpoint.load(tmp_path).step == 8

    def test_what_it_missed_is_sent_on_resuming(self, train, tmp_path, toy):
        train(tmp_path, toy.config(steps=16), tracker=Moody({16}, TrackingError("gone")))
        tracker = Moody((), None)
        train(tmp_path, toy.config(steps=24), tracker=tracker, resume=True)
        assert [step for step, _ in tracker.got] == [16, 24]

    def test_another_run_gets_the_whole_history(self, train, tmp_path, toy):
        train(tmp_path, toy.config(steps=16))
        assert checkpoint.stored_run_id(tmp_path) == "run"
        tracker = Moody((), None, run_id="new")
        train(tmp_path, toy.config(steps=24), tracker=tracker, resume=True)
        assert [step for step, _ in tracker.got] == [8, 16, 24]
        assert checkpoint.stored_run_id(tmp_path) == "new"
