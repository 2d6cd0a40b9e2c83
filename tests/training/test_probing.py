"""``fit`` with a probe: called with the step, passed over where it gives nothing, no part of the training's randomness."""

from __future__ import annotations

import pytest
import torch


def sparse_probe(model, step):
    """Every second epoch, from the weights, and from torch's global generator."""
    if step % 16:
        return {}
    weight = float(next(model.parameters()).detach().sum())
    return {"probe/dice": weight + 1e-3 * float(torch.rand(1)), "probe/seconds": step}


def test_a_probe_chooses_among_the_epochs_that_have_one(train, toy, tmp_path):
    values = {16: 0.3, 32: 0.7, 40: 0.5}
    result, *_ = train(
        tmp_path / "run",
        toy.config(monitor="probe/dice", mode="max", patience=2),
        probe=lambda model, step: {"probe/dice": values[step]} if step in values else {},
    )
    assert [record["step"] for record in result.history if "probe/dice" in record] == [16, 32, 40]
    assert (result.best_step, result.best_value, result.steps) == (32, 0.7, 40), "epochs without a probe try no patience"


def test_a_training_does_not_notice_a_probe(train, toy, tmp_path, same_weights):
    config = toy.config(monitor=None)
    _, plain, _ = train(tmp_path / "plain", config)
    _, probed, _ = train(tmp_path / "probed", config, probe=sparse_probe)
    assert same_weights(plain, probed)


def test_a_resumed_training_has_the_same_probes(train, toy, tmp_path, same_weights):
    config = toy.config(monitor="probe/dice", mode="max")
    whole, one, _ = train(tmp_path / "whole", config, probe=sparse_probe)

    def dies(model, step):
        if step == 32:
            raise RuntimeError("killed")
        return sparse_probe(model, step)

    with pytest.raises(RuntimeError, match="killed"):
        train(tmp_path / "broken", config, probe=dies)
    again, two, _ = train(tmp_path / "broken", config, probe=sparse_probe, resume=True)
    assert toy.without_timing(again.history) == toy.without_timing(whole.history)
    assert (again.best_step, again.best_value) == (whole.best_step, whole.best_value)
    assert same_weights(one, two)


@pytest.mark.parametrize(
    ("monitor", "probe"),
    [("probe/diec", sparse_probe), ("probe/dice", lambda model, step: {"probe/dice": float("nan")})],
    ids=["never there", "never a number"],
)
def test_a_monitor_without_any_value_is_told(train, toy, tmp_path, monitor, probe):
    result, _, said = train(tmp_path / "run", toy.config(monitor=monitor, mode="max"), probe=probe)
    assert f"No epoch has a value of '{monitor}'" in said
    assert (result.best_step, result.best_value) == (result.steps, None), "the last weights"
