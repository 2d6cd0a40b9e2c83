"""Digests are of the contents, whatever is remembered."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from medae.data import digests
from medae.data.digests import Memory, cache_folder, reporting, sha256_of_files


def old_file(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that are really read; files are remembered however new they are."""
    read: list[Path] = []
    original = digests._sha256

    def sha256(path: Path) -> str | OSError:
        read.append(path)
        return original(path)

    monkeypatch.setattr(digests, "_sha256", sha256)
    monkeypatch.setattr(digests, "SETTLED", 0.0)
    return read


def test_an_unchanged_file_is_read_once(tmp_path: Path, counted: list[Path]) -> None:
    file = old_file(tmp_path / "a", b"one")
    expected = {file: hashlib.sha256(b"one").hexdigest()}
    assert sha256_of_files([file]) == expected
    assert sha256_of_files([file, file]) == expected
    assert counted == [file]


@pytest.mark.parametrize("keep_times", [False, True])
def test_a_changed_file_is_read_again(tmp_path: Path, counted: list[Path], keep_times: bool) -> None:
    file = old_file(tmp_path / "a", b"one")
    before = file.stat()
    sha256_of_files([file])
    time.sleep(0.01)
    file.write_bytes(b"two")  # as long as before
    if keep_times:  # the time of the change itself cannot be set
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert sha256_of_files([file])[file] == hashlib.sha256(b"two").hexdigest()
    assert len(counted) == 2


def test_a_file_changed_just_now_is_not_remembered(
    tmp_path: Path, counted: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "SETTLED", 60.0)
    file = old_file(tmp_path / "a", b"one")
    sha256_of_files([file])
    sha256_of_files([file])
    assert len(counted) == 2


def test_a_file_changed_while_it_is_read_is_not_remembered(
    tmp_path: Path, counted: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = old_file(tmp_path / "a", b"one")
    read = digests._sha256

    def changing(path: Path) -> str | OSError:
        digest = read(path)
        path.write_bytes(b"changed")
        return digest

    with monkeypatch.context() as patch:
        patch.setattr(digests, "_sha256", changing)
        sha256_of_files([file])
    assert sha256_of_files([file])[file] == hashlib.sha256(b"changed").hexdigest()


def test_unreadable_files_are_returned_as_errors_and_progress_counts(tmp_path: Path) -> None:
    good = old_file(tmp_path / "a", b"one")
    seen: list[tuple[int, int]] = []
    with reporting(lambda done, total: seen.append((done, total))):
        found = sha256_of_files([good, tmp_path / "missing"])
    assert isinstance(found[tmp_path / "missing"], FileNotFoundError)
    assert seen == [(1, 2), (2, 2)]


def test_a_memory_that_is_damaged_is_begun_anew(tmp_path: Path, counted: list[Path]) -> None:
    file = old_file(tmp_path / "a", b"one")
    (cache_folder() / "digests.sqlite").write_bytes(b"no database" * 100)
    for _ in range(2):
        assert sha256_of_files([file])[file] == hashlib.sha256(b"one").hexdigest()
    assert len(counted) == 1


def test_without_a_place_for_a_memory_nothing_is_lost_but_time(
    tmp_path: Path, counted: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = old_file(tmp_path / "a", b"one")
    monkeypatch.setenv("MEDAE_CACHE", str(file / "below-a-file"))
    for _ in range(2):
        assert sha256_of_files([file])[file] == hashlib.sha256(b"one").hexdigest()
    assert len(counted) == 2


def test_the_memory_holds_no_path(tmp_path: Path, counted: list[Path]) -> None:
    file = old_file(tmp_path / "doe_john", b"one")
    sha256_of_files([file])
    content = (cache_folder() / "digests.sqlite").read_bytes()
    assert b"doe_john" not in content
    assert str(tmp_path).encode() not in content
    assert hashlib.sha256(b"one").hexdigest().encode() in content


def test_values_are_replaced() -> None:
    Memory().put({"a": "1", "b": "2"})
    Memory().put({"a": "3"})
    assert Memory().get(["a", "b", "c"]) == {"a": "3", "b": "2"}
