from __future__ import annotations

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from medae.commented import WIDTH, commented_yaml

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc", min_size=1), inner)
)
LINES = st.text(st.characters(categories=["L", "N", "P", "S", "Zs"]), min_size=1, max_size=12)
NAMES = st.text("abcdefgh_", min_size=1, max_size=12)


def test_a_short_comment_stands_beside_its_entry_and_a_long_one_above_it():
    parts = {"space": {"spacing": [1.0, None, 2.0], "channels": ["T1"]}, "sampling": {"batch": 2}}
    long = "as many samples " * 12
    text = commented_yaml(parts, {"space.spacing": "the median", "sampling.batch": long}, ["A plan.", "Look at it."])
    assert text.startswith(
        "# A plan.\n# Look at it.\n\nspace:\n  spacing: [1.0, null, 2.0]  # the median\n  channels: [T1]\n"
    )
    assert text.endswith("as many samples\n  batch: 2\n")
    assert "\nsampling:\n  # as many samples as many" in text
    assert max(map(len, text.splitlines())) <= WIDTH


@settings(deadline=None, max_examples=40)
@given(
    parts=st.dictionaries(LINES, st.dictionaries(NAMES, VALUES, min_size=1, max_size=3), max_size=3),
    comment=st.text(max_size=300),
    heading=st.lists(st.text(max_size=200), max_size=2),
)
def test_comments_change_nothing_of_what_is_read(parts, comment, heading):
    comments = {f"{part}.{key}": comment for part, entries in parts.items() for key in entries}
    assert (yaml.safe_load(commented_yaml(parts, comments, heading)) or {}) == parts
