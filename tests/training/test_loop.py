from __future__ import annotations

import math

import pytest
import torch
from rich.console import Console

from medae.errors import TrainingError
from medae.training import checkpoint
from medae.training.finetuning import DecoderFirst, Frozen, Gentle, Layerwise, Together
from medae.training.state import TIMING, TrainingState


class TestLearning:
    def test_it_learns_and_records_every_epoch(self, train, tmp_path):
        result, _, text = train(tmp_path)
        assert [record["step"] for record in result.history] == [8, 16, 24, 32, 40]
        assert result.history[-1]["loss"] < 0.6 * result.history[0]["loss"]
        assert set(result.history[0]) == {
            *("step", "loss", "loss/l1", "loss/l2", "gradient_norm", "rate", "validation/l1"),
            *TIMING,
        }
        for record in result.history:
            assert record["loss"] == pytest.approx(record["loss/l1"] + record["loss/l2"], rel=1e-5)
        assert text.count("validation/l1") == 5
        assert "step 40/40" in text
        assert not result.stopped_early

    def test_the_same_call_gives_the_same_bits(self, train, tmp_path, toy, same_weights):
        one, first, _ = train(tmp_path / "a")
        torch.manual_seed(1)
        other, second, _ = train(tmp_path / "b")
        assert same_weights(first, second)
        assert toy.without_timing(one.history) == toy.without_timing(other.history)

    def test_the_seed_matters(self, train, tmp_path, toy, same_weights):
        _, first, _ = train(tmp_path / "a")
        _, second, _ = train(tmp_path / "b", toy.config(seed=1))
        assert not same_weights(first, second)

    def test_callers_random_numbers_are_left_alone(self, train, tmp_path, toy):
        model = toy.Net()
        torch.manual_seed(5)
        expected = torch.rand(3)
        torch.manual_seed(5)
        train(tmp_path, model=model, on_epoch=[lambda *_: torch.rand(1)])
        assert torch.equal(torch.rand(3), expected)

    def test_global_random_numbers_differ_from_step_to_step(self, train, tmp_path, toy):
        drawn = []

        class Drawing(toy.Denoise):
            def forward(self, model, batch, draw):
                drawn.append(float(torch.rand(1)))
                return super().forward(model, batch, draw)

        train(tmp_path, toy.config(steps=10), objective=Drawing())
        assert len(set(drawn)) == 10

    def test_the_last_epoch_may_be_short(self, train, tmp_path, toy):
        result, _, _ = train(tmp_path, toy.config(steps=11))
        assert [record["step"] for record in result.history] == [8, 11]

    def test_the_model_comes_back_in_its_own_layout_ready_for_use(self, train, tmp_path):
        _, model, _ = train(tmp_path)
        assert not model.training
        assert all(p.is_contiguous() and p.requires_grad for p in model.parameters())

    def test_sgd_in_fp32_without_extras(self, train, tmp_path, toy):
        config = toy.config(optimiser="sgd", precision="fp32", clip=None, ema=None, monitor=None, channels_last=False)
        result, _, _ = train(tmp_path, config, augment=None, validate=None)
        assert result.history[-1]["loss"] < result.history[0]["loss"]
        assert result.best_step == 40
        assert result.best_value is None


class TestChoosing:
    def test_the_best_weights_are_kept(self, train, tmp_path, toy, same_weights):
        values = iter([0.5, 0.7, math.nan, 0.6, 0.9])
        kept = {}
        result, model, _ = train(
            tmp_path,
            toy.config(monitor="score", mode="max", steps=32),
            validate=lambda _: {"score": next(values)},
            on_epoch=[lambda model, step: kept.update({step: {k: v.clone() for k, v in model.state_dict().items()}})],
        )
        assert (result.best_step, result.best_value) == (16, 0.7)
        assert all(torch.equal(value, kept[16][name]) for name, value in model.state_dict().items())
        assert not all(torch.equal(value, kept[32][name]) for name, value in model.state_dict().items())

    def test_early_stop(self, train, tmp_path, toy):
        values = iter([3.0, 1.0, 2.0, 1.0, 0.0])
        config = toy.config(monitor="score", patience=2)
        result, _, _ = train(tmp_path, config, validate=lambda _: {"score": next(values)})
        assert result.stopped_early
        assert (result.steps, result.best_step, result.best_value) == (32, 16, 1.0)
        again, _, _ = train(tmp_path, config, validate=None, resume=True)
        assert again.history == result.history
        assert again.stopped_early

    def test_an_unknown_monitor_names_the_known_ones(self, train, tmp_path, toy):
        with pytest.raises(TrainingError, match=r"loss/l1.*validation/l1"):
            train(tmp_path, toy.config(monitor="dice"))

    def test_a_validation_metric_may_not_hide_a_training_one(self, train, tmp_path):
        with pytest.raises(TrainingError, match="name of a training one: loss"):
            train(tmp_path, validate=lambda _: {"loss": 1.0, "validation/l1": 1.0})

    @pytest.mark.parametrize("name", ["loss", "validation/l1"])
    def test_a_probes_metric_may_not_hide_another_one(self, train, tmp_path, name):
        with pytest.raises(TrainingError, match=f"name of another one: {name}"):
            train(tmp_path, validate=lambda _: {"validation/l1": 1.0}, probe=lambda *_: {name: 2.0, "probe/dice": 1.0})

    def test_neither_a_tie_nor_no_number_is_better(self, toy):
        state = TrainingState(step=8)
        config = toy.config(monitor="x", mode="max")
        assert not state.judge({"x": math.nan}, config)
        assert state.judge({"x": 1.0}, config)
        assert not state.judge({"x": 1.0}, config)
        assert state.stale == 1

    def test_the_moving_average_is_what_is_validated_shown_and_kept(self, train, tmp_path, toy):
        seen = []

        def remember(model, _=None):
            seen.append({name: value.clone() for name, value in model.state_dict().items()})
            return {"score": 1.0}

        config = toy.config(steps=8, monitor=None, ema=0.8)
        _, model, _ = train(tmp_path, config, validate=remember, on_epoch=[remember])
        stored = checkpoint.load(tmp_path).tensors
        validated, shown = seen
        for name, kept in model.state_dict().items():
            for found in (validated[name], shown[name], stored[f"ema/{name}"]):
                assert torch.equal(kept, found)
        assert not torch.equal(model.head.weight, stored["model/head.weight"]), "not the weights of the last step"


class TestResuming:
    def test_without_a_checkpoint_it_starts(self, train, tmp_path, toy):
        result, _, _ = train(tmp_path, toy.config(steps=8), resume=True)
        assert result.steps == 8

    def test_a_forgotten_resume_costs_nothing(self, train, tmp_path, toy):
        train(tmp_path, toy.config(steps=8))
        with pytest.raises(TrainingError, match="checkpoint of a training at step 8"):
            train(tmp_path, toy.config(steps=8))
        checkpoint.discard(tmp_path)
        train(tmp_path, toy.config(steps=8))

    def test_a_finished_training_gives_its_result_again(self, train, tmp_path, same_weights):
        first, model, _ = train(tmp_path)
        again, other, _ = train(tmp_path, resume=True)
        assert first == again
        assert same_weights(model, other)

    def test_another_configuration_is_refused_by_name(self, train, tmp_path, toy):
        train(tmp_path, toy.config(steps=8))
        changed = toy.config(steps=16, rate=0.1, schedule={"warmup": 7})
        with pytest.raises(TrainingError) as caught:
            train(tmp_path, changed, resume=True, tuning=Together(encoder=0.5))
        for change in ("fit.rate: 0.003 before, 0.1 now", "fit.schedule.warmup: 5 before, 7 now", "tuning.encoder: None"):
            assert change in str(caught.value)
        with pytest.raises(TrainingError, match="identity: '' before, 'other data' now"):
            train(tmp_path, toy.config(steps=16), resume=True, identity="other data")

    def test_another_network_is_refused(self, train, tmp_path, toy):
        train(tmp_path, toy.config(steps=8))
        with pytest.raises(TrainingError, match="another network"):
            train(tmp_path, toy.config(steps=16), model=toy.Net(norm=False), resume=True)

    def test_fewer_steps_than_were_done_are_refused(self, train, tmp_path, toy):
        train(tmp_path, toy.config(steps=16))
        with pytest.raises(TrainingError, match="16 steps, more than the 8"):
            train(tmp_path, toy.config(steps=8), resume=True)

    def test_another_number_of_threads_is_warned_of(self, train, tmp_path, toy):
        train(tmp_path, toy.config(steps=8))
        threads = torch.get_num_threads()
        torch.set_num_threads(threads + 1)
        try:
            _, _, text = train(tmp_path, toy.config(steps=16), resume=True)
        finally:
            torch.set_num_threads(threads)
        assert f"CPU threads: {threads} before, {threads + 1} now" in text
        checkpoint.discard(tmp_path)
        train(tmp_path, toy.config(steps=8))
        _, _, text = train(tmp_path, toy.config(steps=16), resume=True)
        assert "threads" not in text


@pytest.mark.parametrize(
    "tuning",
    [
        Together(encoder=0.5),
        Gentle(share=0.1, lasts=18, warmup=4),
        DecoderFirst(lasts=18, warmup=4),
        DecoderFirst(lasts=0.45, warmup=0.1),
        Layerwise(decay=0.5),
        Frozen(),
    ],
    ids=lambda tuning: tuning.kind,
)
def test_broken_off_and_resumed_a_tuned_training_ends_in_the_same_bits(train, tmp_path, toy, same_weights, tuning):
    """The checkpoint of step 16 lies before the stage's end at 18, the break at 24 behind it."""

    def break_off(_, step):
        if step == 24:
            raise RuntimeError("broken off")

    one, first, _ = train(tmp_path / "whole", tuning=tuning)
    with pytest.raises(RuntimeError, match="broken off"):
        train(tmp_path / "broken", tuning=tuning, on_epoch=[break_off])
    assert checkpoint.latest(tmp_path / "broken").name == "step-00000016"
    other, second, _ = train(tmp_path / "broken", tuning=tuning, resume=True)
    assert same_weights(first, second)
    assert toy.without_timing(one.history) == toy.without_timing(other.history)


def test_the_record_has_the_rates_of_decoder_and_encoder(train, tmp_path, toy):
    config = toy.config(rate=0.01, schedule={"kind": "constant", "warmup": 0}, monitor=None)
    result, _, _ = train(tmp_path, config, tuning=DecoderFirst(lasts=20, warmup=8))
    assert [record["rate"] for record in result.history] == [0.01] * 5
    assert [record["rate/encoder"] for record in result.history] == pytest.approx([0.0, 0.0, 0.005, 0.01, 0.01])


def test_the_live_bar_shows_loss_metric_and_throughput(train, tmp_path, monkeypatch):
    monkeypatch.setattr(Console, "is_terminal", property(lambda self: True))
    _, _, text = train(tmp_path, name="pretrain")
    for part in ("pretrain", "loss", "validation/l1", "samples/s", "left", "40/40"):
        assert part in text
