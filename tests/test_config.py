"""Configuration: read, overridden, refused with the key's name."""

from typing import Annotated, Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import Discriminator, Field, Tag, model_validator

from medae.config import Config, apply_overrides, digest, flatten, load, to_yaml, validate
from medae.errors import ConfigError


class Inner(Config):
    rate: float = 0.1
    sizes: tuple[int, ...] = (1, 2)


class Outer(Config):
    name: str
    inner: Inner = Inner()


def test_a_file_is_read_with_overrides_applied(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("name: a\ninner: {sizes: [4, 5]}\n")
    config = load(path, Outer, ["inner.rate=0.5", "inner.sizes.1=7", "name=b"])
    assert config == Outer(name="b", inner=Inner(rate=0.5, sizes=(4, 7)))


def test_an_override_reaches_a_key_that_the_file_does_not_have(tmp_path):
    assert apply_overrides({}, ["a.b.c=[1, 2]"]) == {"a": {"b": {"c": [1, 2]}}}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("other:", "other:"),
        ("a: b", "a: b"),
        ("{kind: masked}", {"kind": "masked"}),
        (" {a: 1}", {"a": 1}),
        ("[a, 2]", ["a", 2]),
    ],
)
def test_a_block_of_keys_is_written_in_braces_all_else_with_a_colon_is_text(text, value):
    assert apply_overrides({}, [f"split.salt={text}"]) == {"split": {"salt": value}}


def test_overrides_do_not_change_the_mapping_they_start_from():
    content = {"a": {"b": 1}}
    apply_overrides(content, ["a.b=2"])
    assert content == {"a": {"b": 1}}


@pytest.mark.parametrize("override", ["rate", "=3", "a..b=1", "inner.sizes.9=1", "inner.sizes.0.x=1", "inner.sizes.0.x.y=1"])
def test_a_malformed_override_is_refused(override):
    with pytest.raises(ConfigError, match="--set"):
        apply_overrides({"inner": {"sizes": [1]}}, [override])


@pytest.mark.parametrize(
    ("content", "key"),
    [({"name": "a", "nmae": 1}, "nmae"), ({"name": "a", "inner": {"rate": "fast"}}, "inner.rate"), ({}, "name")],
)
def test_an_unknown_key_a_wrong_type_and_a_missing_key_are_named(content, key):
    with pytest.raises(ConfigError, match=key):
        validate(Outer, content, where="x.yaml")


class Round(Config):
    kind: Literal["round"] = "round"
    radius: float = 1.0


class Square(Config):
    """One of its keys is called as it is."""

    kind: Literal["square"] = "square"
    side: int = 1
    square: Inner | None = None


def chosen(value: object) -> object:
    return value.get("kind", "round") if isinstance(value, dict) else getattr(value, "kind", None)


Share = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]


class Drawing(Config):
    shape: Annotated[Round | Square, Field(discriminator="kind")] = Round()
    other: Annotated[Annotated[Round, Tag("round")] | Annotated[Square, Tag("square")], Discriminator(chosen)] = Round()
    pens: tuple[Inner, ...] = ()
    width: Literal["thin", "thick"] | tuple[Literal["thin", "thick"], ...] = "thin"
    size: Count | Share = 1
    names: str | dict[str, str] = ""
    colours: dict[str, int] = Field(default_factory=dict)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ({"shape": {"kind": "square", "sid": 1}}, "shape.sid: is unknown; did you mean side?"),
        ({"shape": {"kind": "square", "radius": 1}}, "shape.radius: is unknown; known here: kind, side, square"),
        ({"shape": {"kind": "square", "square": {"rat": 1}}}, "shape.square.rat: is unknown; did you mean rate?"),
        ({"shape": {"kind": "round", "round": 1}}, "shape.round: is unknown; known here: kind, radius"),
        ({"shape": {"kind": "squar"}}, "shape: kind 'squar' is unknown: choose one of round, square; did you mean square?"),
        ({"shape": {"side": 1}}, "shape: kind is missing: choose one of round, square"),
        ({"shape": "square"}, "shape: should be a block of keys with a kind: choose one of round, square"),
        (
            {"shape": {"kind": "square", "side": "a"}},
            "shape.side: should be an integer, unable to parse string as an integer, not 'a'",
        ),
        ({"other": {"kind": "square", "square": {"rat": 1}}}, "other.square.rat: is unknown; did you mean rate?"),
        ({"other": {"kind": "sqare"}}, "other: kind 'sqare' is unknown: choose one of round, square; did you mean square?"),
        ({"other": "square"}, "other: should be a block of keys with a kind: choose one of round, square"),
        ({"pens": [{"rat": 1}]}, "pens.0.rat: is unknown; did you mean rate?"),
        ({"pens": [3]}, "pens.0: should be a block of keys, not 3"),
        ({"width": "thik"}, "width: should be 'thin' or 'thick', not 'thik', or should be a list, not 'thik'"),
        ({"width": ["thik"]}, "width.0: should be 'thin' or 'thick', not 'thik'"),
        ({"size": -1}, "size: should be greater than or equal to 1, not -1, or should be greater than 0, not -1"),
        ({"names": {"a": 1}}, "names.a: should be a string, not 1"),
        ({"colours": {"red": "x"}}, "colours.red: should be an integer, unable to parse string as an integer, not 'x'"),
        ({"size[0]": 1}, "size[0]: is unknown; did you mean size?"),
    ],
)
def test_a_problem_is_said_in_the_words_of_the_file(content, line):
    with pytest.raises(ConfigError) as caught:
        validate(Drawing, content)
    assert f"    {line}" in caught.value.what.splitlines()


def test_every_row_of_a_problem_names_a_key_of_the_file():
    with pytest.raises(ConfigError) as caught:
        validate(Drawing, {"size": -1, "width": "thik", "shape": "square", "colours": 3})
    keys = [line.strip().partition(":")[0] for line in caught.value.what.splitlines()[1:]]
    assert sorted(keys) == ["colours", "shape", "size", "width"]


def test_an_error_of_a_check_keeps_its_remedy_and_gains_the_file():
    class Checked(Config):
        @model_validator(mode="after")
        def _check(self) -> Config:
            raise ConfigError("It is odd.", where="a.b", remedy="Even it.")

    with pytest.raises(ConfigError) as caught:
        validate(Checked, {}, where="x.yaml")
    assert (caught.value.what, caught.value.where, caught.value.remedy) == ("It is odd.", "x.yaml: a.b", "Even it.")


@pytest.mark.parametrize("text", ["- 1\n- 2\n", "a: [1\n", ""])
def test_a_file_that_is_no_mapping_is_named(tmp_path, text):
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"broken\.yaml"):
        load(path, Outer)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="absent"):
        load(tmp_path / "absent.yaml", Outer)


@example("one\x85two\u2028three", 0.0, [])
@given(st.text(min_size=1), st.floats(0, 1), st.lists(st.integers(0, 99)))
def test_what_is_dumped_is_read_back_equal(name, rate, sizes):
    import yaml

    config = Outer(name=name, inner=Inner(rate=rate, sizes=tuple(sizes)))
    assert validate(Outer, yaml.safe_load(to_yaml(config))) == config


def test_the_digest_depends_on_values_not_on_the_order_of_keys():
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest({"a": 1, "b": 2}) != digest({"a": 2, "b": 1})
    assert digest(Outer(name="a")) == digest({"inner": {"rate": 0.1, "sizes": [1, 2]}, "name": "a"})


def test_flatten_joins_keys_by_points():
    assert flatten({"a": {"b": 1, "c": {"d": [1, 2]}}, "e": {}}) == {"a.b": 1, "a.c.d": [1, 2], "e": {}}


def test_a_configuration_cannot_be_changed():
    config = Inner()
    with pytest.raises(ValueError, match="frozen"):
        config.rate = 1.0  # type: ignore[misc]


def test_a_value_that_json_does_not_know_is_kept():
    import datetime

    assert apply_overrides({"a": datetime.date(2024, 1, 1)}, ["b=1"]) == {"a": datetime.date(2024, 1, 1), "b": 1}


def test_a_value_that_is_no_yaml_is_text():
    assert apply_overrides({}, ["data.image_pattern=*_T1w.nii.gz"]) == {"data": {"image_pattern": "*_T1w.nii.gz"}}
