"""Semi-supervised trainings that were stopped go on to the same weights; the same seed gives the same result."""

from __future__ import annotations

import pytest
import torch

from medae.objectives.joint import JointConfig
from medae.objectives.masked import MaskedConfig
from medae.objectives.mean_teacher import MeanTeacherConfig

CASES = [
    (config, kind, dims)
    for config in (JointConfig(fades=True), JointConfig(pretext=MaskedConfig()), MeanTeacherConfig(ramp=0.5))
    for kind, dims in (("unet", 2), ("segnet", 2), ("fcn", 3))
] + [(MeanTeacherConfig(consistency="pseudo_labels", threshold=0.4), "unet", 3)]


def parts(semi, config, kind, dims):
    network = semi.network(kind, dims, dropout=0.2)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        if config.kind == "joint":
            return network, config.build(semi.supervised(), network.encoder.config, 6)
        return network, config.build(semi.supervised(), (None,) * dims, 6, ct=False)


@pytest.mark.parametrize(("config", "kind", "dims"), CASES, ids=lambda value: getattr(value, "kind", str(value)))
def test_stopped_and_resumed_is_as_if_nothing_had_happened(semi, tmp_path, config, kind, dims):
    whole, objective = parts(semi, config, kind, dims)
    result = semi.train(tmp_path / "whole", whole, objective, dims, steps=6)

    class Stop(Exception):
        pass

    def stop(_, step):
        if step == 4:
            raise Stop

    broken, objective = parts(semi, config, kind, dims)
    with pytest.raises(Stop):
        semi.train(tmp_path / "broken", broken, objective, dims, steps=6, on_epoch=[stop])
    again, objective = parts(semi, config, kind, dims)
    resumed = semi.train(tmp_path / "broken", again, objective, dims, steps=6, resume=True)
    theirs = again.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in whole.state_dict().items())
    losses = [[record["loss"] for record in found.history] for found in (result, resumed)]
    assert losses[0] == losses[1]
