"""The plan's schema and its file."""

import json

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from medae.config import to_dict
from medae.errors import ConfigError
from medae.plan import CTWindow, NetworkPlan, Plan, RobustZ, SamplingPlan, SpacePlan, ZScore

NUMBERS = st.floats(-3000, 3000)
POSITIVE = st.floats(1e-3, 1e4)
SCHEMES = (
    st.builds(CTWindow, lower=NUMBERS, upper=NUMBERS, mean=NUMBERS, std=POSITIVE)
    | st.builds(ZScore, lower_percentile=NUMBERS, upper_percentile=NUMBERS)
    | st.builds(RobustZ, clip=POSITIVE)
)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    dims = draw(st.sampled_from([2, 3]))
    levels = draw(st.integers(1, 6))
    shapes = st.lists(st.tuples(*[st.integers(1, 4)] * dims), min_size=levels, max_size=levels)
    space = SpacePlan(
        spatial_dims=dims,
        slice_axis=None if dims == 3 else draw(st.sampled_from([0, 1, 2])),
        spacing=draw(st.tuples(*[st.none() | POSITIVE] * 3)),
        intensity=draw(SCHEMES),
        foreground=draw(st.sampled_from(["all", "nonzero", "head"])),
        channels=draw(st.lists(st.text(max_size=20), min_size=1, max_size=3)),
    )
    network = NetworkPlan(
        stem=draw(st.sampled_from(["plain", "space_to_depth"])),
        widths=draw(st.lists(st.integers(1, 512), min_size=levels, max_size=levels)),
        strides=draw(shapes),
        kernels=draw(shapes),
        downsampling=draw(st.sampled_from(["strided", "maxpool"])),
    )
    sampling = SamplingPlan(patch=draw(st.tuples(*[st.integers(1, 512)] * dims)), batch=draw(st.integers(1, 64)))
    reason = st.text(max_size=200)
    keys = st.sampled_from(["space.spacing", "network.strides", "sampling.patch", "space.intensity"])
    reasons, notes = draw(st.dictionaries(keys, reason)), draw(st.lists(reason, max_size=2))
    return Plan(space=space, network=network, sampling=sampling, reasons=reasons, notes=notes)


@settings(deadline=None, max_examples=60)
@given(plan=plans())
def test_a_plan_survives_its_yaml_and_its_json(plan):
    read = Plan.model_validate(yaml.safe_load(plan.as_yaml()))
    assert read == plan.model_copy(update={"reasons": {}, "notes": ()})
    assert Plan.model_validate(json.loads(json.dumps(to_dict(plan)))) == plan


OLD = """
space:
  spatial_dims: 2
  slice_axis: 2
  spacing: [1.0, 1.0, null]
  intensity:
    kind: robust_z
    clip: 10.0
  foreground: head
  channels:
  - FLAIR
network:
  stem: plain
  widths: [8, 16]
  strides: [[1, 1], [2, 2]]
  kernels: [[3, 3], [3, 3]]
  downsampling: strided
sampling:
  patch: [64, 64]
  batch: 4
reasons:
  space.spacing: the spacing of all cases
"""


def test_plans_of_earlier_versions_are_read(tmp_path):
    (tmp_path / "plan.yaml").write_text(OLD)
    plan = Plan.read(tmp_path / "plan.yaml")
    assert plan.space.orientation == "RAS"
    assert plan.space.intensity == RobustZ(clip=10.0)
    assert plan.reasons == {"space.spacing": "the spacing of all cases"}
    assert plan.notes == ()
    assert "spacing: [1.0, 1.0, null]  # the spacing of all cases\n" in plan.as_yaml()


def test_another_orientation_is_refused(tmp_path):
    (tmp_path / "plan.yaml").write_text(OLD.replace("  foreground: head", "  orientation: LPS\n  foreground: head"))
    with pytest.raises(ConfigError, match=r"space\.orientation: should be 'RAS'"):
        Plan.read(tmp_path / "plan.yaml")


def test_notes_come_first_in_the_file():
    space = SpacePlan(spatial_dims=2, slice_axis=2)
    network = NetworkPlan(widths=(4, 8), strides=((1, 1), (2, 2)), kernels=((3, 3), (3, 3)))
    plan = Plan(space=space, network=network, sampling=SamplingPlan(patch=(8, 8)), notes=("Look here.", "And there."))
    assert plan.as_yaml().startswith("# Look here.\n# And there.\n\nspace:\n")
