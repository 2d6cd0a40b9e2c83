"""The key of the pseudonyms: made once, for its owner only, outside of the project."""

from __future__ import annotations

import os
import re
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

from medae.data.pseudonyms import SALT_VARIABLE, key_file, pseudonym, pseudonym_key
from medae.errors import DataError


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.delenv(SALT_VARIABLE, raising=False)
    monkeypatch.setattr("medae.data.pseudonyms.user_config_path", lambda name: tmp_path / "config" / name)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


def test_the_key_is_made_once_and_for_its_owner_only(tmp_path):
    key = pseudonym_key()
    assert pseudonym_key() == key
    assert len(key) == 64
    assert key_file() == tmp_path / "config" / "medae" / "pseudonyms.key"
    assert [path.name for path in key_file().parent.iterdir()] == ["pseudonyms.key"]
    assert list((tmp_path / "work").iterdir()) == []
    if os.name == "posix":
        assert stat.S_IMODE(key_file().stat().st_mode) == 0o600


def test_keys_of_two_users_differ(tmp_path, monkeypatch):
    first = pseudonym_key()
    monkeypatch.setattr("medae.data.pseudonyms.user_config_path", lambda name: tmp_path / "other" / name)
    assert pseudonym_key() != first


def test_the_environment_goes_before_the_file(monkeypatch):
    monkeypatch.setenv(SALT_VARIABLE, "of my own")
    assert pseudonym_key() == b"of my own"
    assert not key_file().exists()


def test_many_at_once_get_one_key():
    with ThreadPoolExecutor(16) as pool:
        assert len(set(pool.map(lambda _: pseudonym_key(), range(64)))) == 1
    assert [path.name for path in key_file().parent.iterdir()] == ["pseudonyms.key"]


def test_a_place_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "config").write_text("a file where the folder should be")
    with pytest.raises(DataError, match=SALT_VARIABLE) as error:
        pseudonym_key()
    assert str(tmp_path) not in str(error.value)


def test_a_damaged_key_is_not_used():
    key_file().parent.mkdir(parents=True)
    key_file().write_text("short")
    with pytest.raises(DataError, match="damaged"):
        pseudonym_key()


def test_pseudonyms():
    name = pseudonym(b"key", "sub", "PID4711")
    assert re.fullmatch(r"sub-[0-9a-f]{12}", name)
    assert name == pseudonym(b"key", "sub", "PID4711")
    others = {
        pseudonym(b"other", "sub", "PID4711"),
        pseudonym(b"key", "ses", "PID4711"),
        pseudonym(b"key", "sub", "PID4712"),
    }
    assert len({name[4:], *(other[4:] for other in others)}) == 4
