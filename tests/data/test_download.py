"""A download arrives whole or not at all: broken lines, changed files, lying servers, wrong checksums, small disks."""

from __future__ import annotations

import errno
import gzip
import hashlib
import random
import shutil
import socket
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medae.data import download
from medae.data.download import disk, fetch, verify
from medae.data.part import Checksum, Part, public_url
from medae.errors import DataError

CONTENT = random.Random(0).randbytes(50_000)
HALF = len(CONTENT) // 2


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr(download, "PAUSES", (0.0, 0.0, 0.0, 0.0))
    monkeypatch.setattr(download, "CHUNK", 4096)


@pytest.fixture
def part(tmp_path):
    return Part(tmp_path / "set.tar")


def again(part: Part) -> Part:
    """As the next process finds it."""
    return Part(part.file)


def broken(url: str, part: Part) -> Part:
    """Half of a file, left by a process that ended."""
    with pytest.raises(DataError, match="goes on"):
        fetch(url, part)
    assert part.size == HALF
    return again(part)


def half(web, **faults):
    """A file of which only half comes, and then nothing any more for a while."""
    url = web.put("set.tar", CONTENT, cuts=[HALF, 0, 0, 0, 0], **faults)
    return url, web.files["/set.tar"]


def test_a_file_arrives_whole_and_progress_counts_up_to_it(web, part):
    seen = []
    fetch(web.put("set.tar", CONTENT), part, progress=lambda done, total: seen.append((done, total)))
    assert part.file.read_bytes() == CONTENT
    assert part.is_whole()
    assert seen[0] == (0, len(CONTENT))
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert seen == sorted(seen)


def test_a_whole_file_is_not_asked_for_again(web, part):
    url = web.put("set.tar", CONTENT)
    fetch(url, part)
    fetch(url, again(part))
    assert web.asked == [None]


def test_a_lost_connection_is_taken_up_where_it_broke_to_the_byte(web, part, monkeypatch):
    monkeypatch.setattr(download, "CHUNK", 1 << 20)  # as many bytes as there are
    fetch(web.put("set.tar", CONTENT, cuts=[HALF, 1000]), part)
    assert part.file.read_bytes() == CONTENT
    assert web.asked == [None, f"bytes={HALF}-", f"bytes={HALF + 1000}-"]


def test_the_next_process_goes_on(web, part):
    url, _ = half(web)
    seen = []
    later = broken(url, part)
    fetch(url, later, progress=lambda done, total: seen.append((done, total)))
    assert later.file.read_bytes() == CONTENT
    assert web.asked[-1] == f"bytes={HALF}-"
    assert seen[0] == (HALF, len(CONTENT))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(0, 3999), max_size=8), ranges=st.booleans(), chunked=st.booleans())
def test_wherever_the_line_breaks_the_file_is_the_same(web, tmp_path, monkeypatch, cuts, ranges, chunked):
    monkeypatch.setattr(download, "PAUSES", (0.0,) * 9)
    shutil.rmtree(tmp_path / "any", ignore_errors=True)
    (tmp_path / "any").mkdir()
    part = Part(tmp_path / "any" / "set.tar")
    fetch(web.put("set.tar", CONTENT[:4000], cuts=cuts, ranges=ranges, chunked=chunked), part)
    assert part.file.read_bytes() == CONTENT[:4000]


@pytest.mark.parametrize("blind", [False, True], ids=["server compares", "server does not"])
@pytest.mark.parametrize("faults", [{}, {"etag": None, "modified": "Mon, 01 Jan 2024 00:00:00 GMT"}], ids=["etag", "date"])
def test_a_file_that_changed_on_the_server_is_not_joined_to_the_old_half(web, part, blind, faults):
    url, served = half(web, **faults)
    later = broken(url, part)
    served.content = CONTENT[::-1]
    served.etag = served.etag and '"two"'
    served.modified = served.modified and "Tue, 02 Jan 2024 00:00:00 GMT"
    served.blind = blind
    fetch(url, later)
    assert later.file.read_bytes() == CONTENT[::-1]
    assert web.validators[5] == (faults.get("modified") or '"one"'), "the server is asked to compare"


def test_a_blind_server_whose_file_has_another_size_is_not_joined(web, part):
    url, served = half(web)
    later = broken(url, part)
    served.content, served.blind = CONTENT + b"more", True
    fetch(url, later)
    assert later.file.read_bytes() == CONTENT + b"more"


@pytest.mark.parametrize(
    ("faults", "goes_on"),
    [
        ({"etag": None, "modified": "Mon, 01 Jan 2024 00:00:00 GMT"}, True),
        ({"etag": None}, False),  # nothing tells that it is the same file
        ({"etag": 'W/"one"'}, False),  # only much the same
        ({"ranges": False}, False),
    ],
)
def test_whether_it_goes_on_or_begins_anew(web, part, faults, goes_on):
    seen = []
    url = web.put("set.tar", CONTENT, cuts=[HALF], **faults)
    fetch(url, part, progress=lambda done, total: seen.append(done))
    assert part.file.read_bytes() == CONTENT
    assert len(web.asked) == 2
    assert (web.asked[1] is None) == (not goes_on and "ranges" not in faults)
    assert seen.count(0) == (1 if goes_on else 2)


def test_a_server_without_ranges_that_always_breaks_ends_in_an_error(web, part):
    url = web.put("set.tar", CONTENT, ranges=False, cuts=[HALF] * 50)
    with pytest.raises(DataError, match="goes on"):
        fetch(url, part)
    assert len(web.asked) <= 7


def test_a_part_of_another_address_is_not_used(web, part):
    url, _ = half(web)
    later = broken(url, part)
    other = web.put("other.tar", CONTENT[::-1])
    fetch(other, later)
    assert later.file.read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize("note", [None, "{", "[]", '{"url": 1}'])
def test_a_part_whose_note_is_lost_or_damaged_begins_anew(web, part, note):
    url, _ = half(web)
    broken(url, part)
    part.note.unlink() if note is None else part.note.write_text(note)
    later = again(part)
    fetch(url, later)
    assert later.file.read_bytes() == CONTENT
    assert web.asked[-1] is None


def test_a_part_longer_than_the_file_begins_anew(web, part):
    url, _ = half(web)
    broken(url, part)
    part.file.write_bytes(CONTENT + b"x")
    later = again(part)
    fetch(url, later)
    assert later.file.read_bytes() == CONTENT


@pytest.mark.parametrize("faults", [{"length": False}, {"chunked": True}])
def test_without_an_announced_size_the_end_of_the_answer_is_the_end(web, part, faults):
    seen = []
    fetch(web.put("set.tar", CONTENT, **faults), part, progress=lambda done, total: seen.append((done, total)))
    assert part.file.read_bytes() == CONTENT
    assert part.is_whole()
    assert seen[-1] == (len(CONTENT), None)


def test_all_had_come_but_nobody_knew(web, part):
    """Killed between the last byte and the note that it was the last: the server says that there is no more (416)."""
    url = web.put("set.tar", CONTENT, length=False)
    fetch(url, part)
    part.note.write_text(part.note.read_text().replace(str(len(CONTENT)), "null"))
    later = again(part)
    assert not later.is_whole()
    fetch(url, later)
    assert later.is_whole()
    assert web.asked == [None, f"bytes={len(CONTENT)}-"]


def test_no_more_of_a_file_that_changed_is_not_the_end(web, part):
    url = web.put("set.tar", CONTENT, length=False)
    fetch(url, part)
    part.note.write_text(part.note.read_text().replace(str(len(CONTENT)), "null"))
    served = web.files["/set.tar"]
    served.content, served.etag, served.blind = CONTENT[:HALF], '"two"', True
    later = again(part)
    fetch(url, later)
    assert later.file.read_bytes() == CONTENT[:HALF]


def test_a_server_that_announces_more_than_it_has_is_an_error_in_the_end(web, part):
    with pytest.raises(DataError, match=r"connection was lost|sent less"):
        fetch(web.put("set.tar", CONTENT, length=len(CONTENT) + 10, ranges=False), part)
    assert not part.is_whole()


def test_a_server_that_announces_too_little_gives_a_file_that_fails_its_checksum(web, part):
    fetch(web.put("set.tar", CONTENT, length=HALF), part)
    with pytest.raises(DataError, match="another sha256"):
        verify(part, [Checksum("sha256", hashlib.sha256(CONTENT).hexdigest())])


@pytest.mark.parametrize(
    ("status", "words"),
    [(401, "everybody"), (403, "accept its terms"), (404, "does not have"), (410, "does not have"), (400, "something else")],
)
def test_a_refusal_is_final_and_explained(web, part, status, words):
    with pytest.raises(DataError, match=words) as error:
        fetch(web.put("set.tar", CONTENT, states=[status]), part)
    assert f"status {status}" in str(error.value)
    assert len(web.asked) == 1


def test_a_busy_server_is_waited_for_as_long_as_it_asks(web, part, monkeypatch):
    slept, notes = [], []
    monkeypatch.setattr(download, "time", SimpleNamespace(sleep=slept.append))
    fetch(web.put("set.tar", CONTENT, states=[503, 429], headers={"Retry-After": "7"}), part, note=notes.append)
    assert part.file.read_bytes() == CONTENT
    assert slept == [7.0, 7.0]
    assert [("busy" in note, "in 7 s" in note) for note in notes] == [(True, True)] * 2


def test_a_server_that_stays_busy_is_an_error(web, part):
    with pytest.raises(DataError, match="busy"):
        fetch(web.put("set.tar", CONTENT, states=[503] * 9), part)


def test_redirections_are_followed(web, part):
    url = web.put("set.tar", CONTENT)
    fetch(web.put("old.tar", b"", states=[302], headers={"Location": url}), part)
    assert part.file.read_bytes() == CONTENT


def test_what_a_server_calls_encoded_stays_as_it_is(web, part):
    packed = gzip.compress(CONTENT)
    fetch(web.put("set.tar.gz", packed, headers={"Content-Encoding": "x-gzip"}), part)
    assert part.file.read_bytes() == packed


def test_an_unknown_server_is_said_at_once(part, monkeypatch):
    asked = []

    def unknown(*arguments: object, **_: object) -> None:
        asked.append(arguments)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(DataError, match="name is not known"):
        fetch("http://medae.invalid/set.tar", part)
    assert len(asked) == 1


def test_a_server_that_is_away_is_tried_several_times(web, part):
    url = web.put("set.tar", CONTENT)
    web.stop()
    with pytest.raises(DataError, match=r"cannot be reached.*Tried 5 times"):
        fetch(url, part)


@pytest.mark.parametrize("url", ["http://", "http://127.0.0.1:port/x", "http:///x"])
def test_an_address_that_is_none(part, url):
    with pytest.raises(DataError, match="cannot be used"):
        fetch(url, part)


@pytest.mark.parametrize(("copies", "fits"), [(1, True), (2, False)])
def test_a_disk_that_is_too_small_is_said_before_the_first_byte(web, part, monkeypatch, copies, fits):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=len(CONTENT) + 1))
    url = web.put("set.tar", CONTENT)
    if fits:
        fetch(url, part, copies=copies)
        return
    with pytest.raises(DataError, match=r"100\.0 kB more are needed.*50\.0 kB are free"):
        fetch(url, part, copies=copies)
    assert part.size == 0


def test_what_is_there_needs_no_room_any_more(web, part, monkeypatch):
    url, _ = half(web)
    later = broken(url, part)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=HALF))
    fetch(url, later)
    assert later.file.read_bytes() == CONTENT


def test_a_disk_that_fills_up_is_a_users_error_and_others_are_not(tmp_path):
    with pytest.raises(DataError, match="disk is full"), disk(tmp_path / "x"):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(PermissionError), disk(tmp_path / "x"):
        raise PermissionError(errno.EACCES, "Permission denied")


def test_digests_are_those_of_hashlib(web, part):
    fetch(web.put("set.tar", CONTENT), part)
    found = verify(part, [Checksum("md5", hashlib.md5(CONTENT).hexdigest())])
    assert found == {"md5": hashlib.md5(CONTENT).hexdigest(), "sha256": hashlib.sha256(CONTENT).hexdigest()}


def test_a_wrong_checksum_keeps_the_file_for_a_right_one_and_never_accepts_it(web, part):
    url = web.put("set.tar", CONTENT)
    wrong, right = Checksum("sha256", "0" * 64), Checksum("sha256", hashlib.sha256(CONTENT).hexdigest())
    fetch(url, part, [wrong])
    with pytest.raises(DataError, match=right.hex):
        verify(part, [wrong])
    later = again(part)
    fetch(url, later, [right])
    assert len(web.asked) == 1, "a slip in the checksum costs no transfer"
    verify(later, [right])
    for expected in ([wrong], []):
        fetch(url, again(later), expected)
        assert len(web.asked) == 2 + (expected == [])
        with pytest.raises(DataError):
            verify(again(later), [wrong])


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://host/a/b.tar", "https://host/a/b.tar"),
        ("https://me:secret@host:8443/b.tar", "https://host:8443/b.tar"),
        ("https://host/b.tar?X-Amz-Signature=secret&a=1#secret", "https://host/b.tar?..."),
    ],
)
def test_no_secret_in_an_address_that_is_shown(url, shown):
    assert public_url(url) == shown


def test_secrets_are_sent_but_neither_shown_nor_stored(web, part):
    plain = web.put("set.tar", CONTENT, cuts=[HALF, 0, 0, 0, 0])
    url = plain.replace("http://", "http://me:s3cret@") + "?token=s3cret"
    with pytest.raises(DataError) as error:
        fetch(url, part)
    assert "s3cret" not in str(error.value)
    assert "s3cret" not in part.note.read_text()
    assert web.authorizations[0].startswith("Basic ")
    later = again(part)
    fetch(plain.replace("http://", "http://me:s3cret@") + "?token=another", later)  # addresses may be signed anew
    assert later.file.read_bytes() == CONTENT
    assert web.asked[-1] == f"bytes={HALF}-"


A, B = "?files=A.zip", "?files=B.zip"
OTHER = CONTENT[::-1]


@pytest.mark.parametrize("begun", ["half", "whole"])
@pytest.mark.parametrize("blind", [False, True], ids=["server compares", "server does not"])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"etag": '"two"'}),
        ({}, {"etag": None}),
        ({"etag": None, "modified": "Mon, 01 Jan 2024 00:00:00 GMT"}, {}),
        ({"etag": 'W/"one"', "modified": "Mon, 01 Jan 2024 00:00:00 GMT"}, {}),
    ],
    ids=["other tag", "no tag any more", "date only", "weak tag"],
)
def test_another_query_is_another_file_unless_a_strong_tag_says_that_it_is_not(web, part, begun, blind, before, after):
    url, served = half(web, **before)
    later = broken(url + A, part)
    if begun == "whole":
        fetch(url + A, later)
        assert later.is_whole()
    served.content, served.blind = OTHER, blind
    for name, value in after.items():
        setattr(served, name, value)
    later = again(part)
    fetch(url + B, later)
    assert later.file.read_bytes() == OTHER


def test_a_blind_server_whose_other_file_has_the_tag_but_not_the_size(web, part):
    url, served = half(web, blind=True)
    later = broken(url + A, part)
    served.content = OTHER + b"more"
    fetch(url + B, later)
    assert later.file.read_bytes() == OTHER + b"more"


def test_of_a_whole_file_under_an_address_signed_anew_one_byte_is_asked_for(web, part):
    url = web.put("set.tar", CONTENT)
    fetch(url + "?signature=1", part)
    later = again(part)
    fetch(url + "?signature=2", later)
    assert later.file.read_bytes() == CONTENT
    assert web.asked == [None, f"bytes={len(CONTENT) - 1}-"]


def test_with_a_checksum_another_query_needs_no_tag(web, part):
    url, served = half(web, etag=None, modified="Mon, 01 Jan 2024 00:00:00 GMT")
    right = Checksum("sha256", hashlib.sha256(CONTENT).hexdigest())
    later = broken(url + A, part)
    fetch(url + B, later, [right])
    assert web.asked[-1] == f"bytes={HALF}-"
    verify(later, [right])
    served.content = OTHER
    other = Checksum("sha256", hashlib.sha256(OTHER).hexdigest())
    fetch(url + A, later, [other])
    with pytest.raises(DataError, match="has another sha256"):
        verify(later, [other])
    fetch(url + A, later, [other])
    verify(later, [other])
