"""The network's shape, as far as a user fixes it."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from medae.planning.hints import PlanHints
from medae.planning.network import network_for, network_reasons

THIN = (1.0, 1.0, 5.0)


def test_a_kernel_takes_the_place_of_the_rules_and_leaves_axes_alone_that_are_not_convolved_along() -> None:
    hints = PlanHints(kernel=5, levels=3)
    found, usual = (network_for((64, 64, 16), THIN, each) for each in (hints, PlanHints(levels=3)))
    assert usual.kernels[0] == (3, 3, 1)
    assert found.kernels == tuple(tuple(5 if size == 3 else 1 for size in kernel) for kernel in usual.kernels)
    assert found.strides == usual.strides
    assert network_reasons(found, THIN, hints)["kernels"] == "given"


@pytest.mark.parametrize("kernel", [0, 2, 4])
def test_a_kernel_without_a_centre_is_refused(kernel: int) -> None:
    with pytest.raises(ValidationError, match="kernel"):
        PlanHints(kernel=kernel)
