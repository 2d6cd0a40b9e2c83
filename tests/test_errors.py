"""Every user's error says what, where and what to do."""

import inspect

import pytest

from medae import errors
from medae.errors import DataError, MedaeError


def test_the_message_has_what_where_and_remedy():
    text = str(DataError("The file is truncated.", where="a.nii.gz", remedy="Copy it again."))
    assert text.splitlines() == ["The file is truncated.", "  where:  a.nii.gz", "  remedy: Copy it again."]


def test_every_kind_is_a_medae_error():
    kinds = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if kind.__module__ == errors.__name__]
    assert len(kinds) >= 8
    for kind in kinds:
        with pytest.raises(MedaeError, match="x"):
            raise kind("x")
