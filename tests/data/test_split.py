"""Splits: the order by hand, and the properties that must hold for any set of subjects."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError

from medae.data.case import Case, ImageRef, Manifest
from medae.data.split import SplitConfig, fold_subjects, labelled_subset, ordered, split_subjects
from medae.errors import ConfigError

REF = ImageRef(files=("x.nii.gz",), sha256="0", kind="intensity")


def make_case(subject: str, number: int = 0, labelled: bool = True, **covariates: str | float | None) -> Case:
    targets = {"label": REF} if labelled else {}
    return Case(id=f"{subject}_{number}", subject=subject, images={"image": REF}, targets=targets, covariates=covariates)


def make_manifest(cases: list[Case]) -> Manifest:
    return Manifest(source="folder", root=Path("/nowhere"), channels=("image",), cases=tuple(cases))


names = st.sets(st.text("abcdefgh0123456789-", min_size=1, max_size=6), min_size=3, max_size=30)


def test_order_is_that_of_sha1_of_salt_and_subject():
    # from: printf 'medae-test:a' | sha1sum, and so on
    assert ordered(["a", "b", "c", "d", "e"], "medae-test:") == ("d", "e", "c", "a", "b")
    assert ordered(["e", "a", "a"], "medae-test:") == ("e", "a")


def test_default_salt_and_the_order_of_the_parts():
    split = split_subjects(make_manifest([make_case(s) for s in "abcde"]), SplitConfig(test=2, validation=1))
    # printf 'medae-0:b' | sha1sum, and so on: b e c d a
    assert (split.test, split.validation, split.train) == (("b", "e"), ("c",), ("d", "a"))


def test_seed_changes_the_order_unless_a_salt_is_given():
    manifest = make_manifest([make_case(f"s{n}") for n in range(30)])
    assert split_subjects(manifest, SplitConfig(seed=1)) != split_subjects(manifest, SplitConfig(seed=2))
    fixed = [split_subjects(manifest, SplitConfig(seed=seed, salt="x")) for seed in (1, 2)]
    assert fixed[0] == fixed[1]


@given(names, st.integers(0, 10), st.integers(0, 10), st.randoms(use_true_random=False))
def test_parts_are_disjoint_complete_and_independent_of_the_order_of_cases(subjects, test, validation, random):
    assume(test + validation < len(subjects))
    cases = [make_case(subject, number) for subject in sorted(subjects) for number in range(2)]
    config = SplitConfig(test=test, validation=validation)
    split = split_subjects(make_manifest(cases), config)
    everyone = [*split.train, *split.validation, *split.test]
    assert sorted(everyone) == sorted(subjects)
    assert (len(split.test), len(split.validation)) == (test, validation)
    random.shuffle(cases)
    assert split_subjects(make_manifest(cases), config) == split


@given(names, st.data())
def test_test_subjects_stay_test_subjects_when_others_leave(subjects, data):
    size = data.draw(st.integers(0, len(subjects) - 1))
    config = SplitConfig(test=size, validation=0)
    full = split_subjects(make_manifest([make_case(s) for s in subjects]), config)
    left = data.draw(st.sampled_from(full.train))
    fewer = subjects - {left}
    assume(size < len(fewer))
    assert split_subjects(make_manifest([make_case(s) for s in fewer]), config).test == full.test


def test_shares_are_of_subjects_not_of_cases_and_at_least_one():
    cases = [make_case(f"s{n}", scan) for n in range(10) for scan in range(1 + 5 * (n == 0))]
    split = split_subjects(make_manifest(cases), SplitConfig(test=0.3, validation=0.01))
    assert (len(split.test), len(split.validation), len(split.train)) == (3, 1, 6)


@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 20), st.integers(0, 20))
def test_strata_get_their_share_and_the_totals_stay(n_female, n_male, test, validation):
    assume(test + validation < n_female + n_male)
    cases = [make_case(f"f{n}", sex="F") for n in range(n_female)] + [make_case(f"m{n}", sex="M") for n in range(n_male)]
    split = split_subjects(make_manifest(cases), SplitConfig(test=test, validation=validation, stratify="sex"))
    assert (len(split.test), len(split.validation)) == (test, validation)
    females = sum(subject.startswith("f") for subject in split.test)
    assert abs(females - test * n_female / (n_female + n_male)) < 1
    left = n_female + n_male - test
    females_after = sum(subject.startswith("f") for subject in split.validation)
    assert abs(females_after - validation * (n_female - females) / left) < 1


def test_stratify_by_target_shares_out_the_labelled():
    cases = [make_case(f"s{n}", labelled=n < 6) for n in range(12)]
    split = split_subjects(make_manifest(cases), SplitConfig(test=4, validation=2, stratify="label"))
    assert sum(int(subject[1:]) < 6 for subject in split.test) == 2
    assert sum(int(subject[1:]) < 6 for subject in split.validation) == 1


def test_covariate_goes_before_target_of_the_same_name():
    cases = [make_case(f"s{n}", label=float(n < 6)) for n in range(12)]
    split = split_subjects(make_manifest(cases), SplitConfig(test=4, validation=0, stratify="label"))
    assert sum(int(subject[1:]) < 6 for subject in split.test) == 2


def test_a_subject_with_two_values_is_its_own_stratum_and_stays_whole():
    mixed = [make_case("x", 0, site="A"), make_case("x", 1, site="B")]
    cases = [*mixed, *(make_case(f"a{n}", site="A") for n in range(5)), *(make_case(f"b{n}", site="B") for n in range(5))]
    split = split_subjects(make_manifest(cases), SplitConfig(test=2, validation=0, stratify="site"))
    assert sorted(subject[0] for subject in split.test) == ["a", "b"]


def test_unknown_and_too_fine_strata_are_refused():
    manifest = make_manifest([make_case(f"s{n}", age=20.0 + n) for n in range(10)])
    with pytest.raises(ConfigError, match=r"'centre'.*\n.*\n.*age, label"):
        split_subjects(manifest, SplitConfig(stratify="centre"))
    with pytest.raises(ConfigError, match="'age' has 10 values in 10 subjects"):
        split_subjects(manifest, SplitConfig(stratify="age"))


@pytest.mark.parametrize(("test", "validation"), [(5, 0), (3, 2), (60, 10), (0.9, 0.1)])
def test_sizes_that_leave_no_training_subject_are_refused(test, validation):
    with pytest.raises(ConfigError, match="of 5 leave none for training"):
        split_subjects(make_manifest([make_case(s) for s in "abcde"]), SplitConfig(test=test, validation=validation))


@pytest.mark.parametrize("size", [-1, 1.0, -0.1, "3", True])
def test_sizes_are_counts_or_shares(size):
    with pytest.raises(ValidationError):
        SplitConfig(test=size)


@given(names, st.data())
def test_labelled_subsets_are_nested_and_labelled(subjects, data):
    with_label = data.draw(st.sets(st.sampled_from(sorted(subjects))))
    among = data.draw(st.sets(st.sampled_from(sorted(subjects))))
    manifest = make_manifest([make_case(s, labelled=s in with_label) for s in subjects])
    everyone = labelled_subset(manifest, among, None, "salt")
    assert set(everyone) == with_label & among
    for count in range(len(everyone) + 1):
        assert labelled_subset(manifest, sorted(among), count, "salt") == everyone[:count]


def test_labelled_subset_asks_for_no_more_than_there_are():
    manifest = make_manifest([make_case("a"), make_case("b", labelled=False)])
    with pytest.raises(ConfigError, match="2 labelled subjects are asked for; 1 of these"):
        labelled_subset(manifest, ["a", "b"], 2, "")
    with pytest.raises(ConfigError, match="have 'lesion'"):
        labelled_subset(manifest, ["a", "b"], 1, "", target="lesion")


@pytest.mark.data
def test_pinned_split_of_the_hippocampus_set(data_root):
    subjects = [path.name.removesuffix(".nii.gz") for path in (data_root / "hippocampus" / "imagesTr").glob("*.nii.gz")]
    manifest = make_manifest([make_case(subject) for subject in subjects])
    split = split_subjects(manifest, SplitConfig(salt="medae-test:", test=60, validation=10))
    # for f in imagesTr/*: printf "medae-test:$id" | sha1sum; sorted
    assert split.test[:3] == ("hippocampus_340", "hippocampus_123", "hippocampus_249")
    assert split.test[-1] == "hippocampus_337"
    assert (split.validation[0], split.validation[-1], split.train[0]) == (
        "hippocampus_389",
        "hippocampus_387",
        "hippocampus_287",
    )
    assert len(split.train) == 120


@pytest.mark.data
@pytest.mark.parametrize("secret", [None, "secret"])
def test_hashing_the_ids_changes_no_split(data_root, monkeypatch, secret):
    from medae.data.msd import MSDSource
    from medae.data.sources import hash_ids

    monkeypatch.delenv("MEDAE_CASE_SALT", raising=False)
    if secret is not None:
        monkeypatch.setenv("MEDAE_CASE_SALT", secret)
    given = MSDSource(root=data_root / "hippocampus").manifest()
    hashed = hash_ids(given)
    names = {case.subject: case.split_key for case in hashed.cases}
    config = SplitConfig(salt="medae-test:", test=60, validation=10)
    expected, found = split_subjects(given, config), split_subjects(hashed, config)
    for part in ("train", "validation", "test"):
        assert tuple(names[subject] for subject in getattr(found, part)) == getattr(expected, part)
    few = labelled_subset(hashed, found.train, 8, "medae-test:")
    assert tuple(names[subject] for subject in few) == labelled_subset(given, expected.train, 8, "medae-test:")
    assert all("split_key" not in case.model_dump_json() for case in hashed.cases)


def test_folds_test_everyone_once_and_validate_on_others() -> None:
    manifest = make_manifest([make_case(f"s{number}") for number in range(23)])
    config = SplitConfig(salt="a:", validation=3)
    parts = [fold_subjects(manifest, config, 5, fold) for fold in range(5)]
    tested = [subject for part in parts for subject in part.test]
    assert sorted(tested) == sorted({case.subject for case in manifest.cases})
    assert {len(part.test) for part in parts} == {4, 5}
    for part in parts:
        assert len(part.validation) == 3
        assert len({*part.train, *part.validation, *part.test}) == 23
        assert len(part.train) + len(part.validation) + len(part.test) == 23
    assert len({part.validation for part in parts}) == 5, "validation changes with the fold"
    assert fold_subjects(manifest, SplitConfig(salt="b:", validation=3), 5, 0) != parts[0]


def test_folds_share_out_the_strata() -> None:
    manifest = make_manifest([make_case(f"s{number}", sex="FM"[number % 2]) for number in range(20)])
    for fold in range(4):
        part = fold_subjects(manifest, SplitConfig(validation=4, stratify="sex"), 4, fold)
        for side, size in ((part.test, 5), (part.validation, 4)):
            women = sum(int(subject[1:]) % 2 == 0 for subject in side)
            assert women in (size // 2, size - size // 2)


def test_more_folds_than_subjects_are_refused() -> None:
    manifest = make_manifest([make_case(name) for name in "abc"])
    with pytest.raises(ConfigError, match="3 subjects cannot be 5 folds"):
        fold_subjects(manifest, SplitConfig(validation=0), 5, 4)
    with pytest.raises(ConfigError, match="cannot be 2 folds with 2"):
        fold_subjects(manifest, SplitConfig(validation=2), 2, 0)
