"""Archives from elsewhere: what is in them comes out, nothing leaves the folder, a damaged one is noticed."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import zipfile
from types import SimpleNamespace

import pytest

from medae.data.archive import BadArchive, only_folder, unpack
from medae.errors import DataError

FILES = {"Task/dataset.json": b"{}", "Task/imagesTr/a.nii.gz": os.urandom(3000), "Task/labelsTr/a.nii.gz": b"label" * 300}
JUNK = {"Task/imagesTr/._a.nii.gz": b"x", "__MACOSX/Task/._dataset.json": b"x", "Task/.DS_Store": b"x"}
KINDS = ("tar", "tar.gz", "tar.bz2", "tar.xz", "zip")


def pack(path, files, kind="tar"):
    """An archive whose name says nothing of what it is."""
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
    else:
        with tarfile.open(path, f"w:{kind[4:]}") as archive:
            for name, content in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return path


def link(path, name, target, kind=tarfile.SYMTYPE, files=FILES):
    """A tar archive with a link beside files."""
    pack(path, files)
    with tarfile.open(path, "a") as archive:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, target
        archive.addfile(member)
    return path


def found(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", KINDS)
def test_everything_comes_out_but_what_macos_adds(tmp_path, kind):
    seen = []
    archive = pack(tmp_path / "archive", FILES | JUNK, kind)
    result = unpack(archive, tmp_path / "out", lambda done, total: seen.append((done, total)))
    assert found(tmp_path / "out") == FILES
    size = sum(map(len, FILES.values()))
    assert (result.files, result.size) == (3, size)
    assert seen[-1] == (size, size)
    assert only_folder(tmp_path / "out") == tmp_path / "out" / "Task"


def test_only_a_single_folder_is_only_a_folder(tmp_path):
    assert only_folder(tmp_path) is None
    (tmp_path / "a").mkdir()
    assert only_folder(tmp_path) == tmp_path / "a"
    (tmp_path / "b").write_text("")
    assert only_folder(tmp_path) is None


@pytest.mark.parametrize("kind", ["tar", "zip"])
@pytest.mark.parametrize(
    "name",
    ["../evil", "/evil", "Task/../../evil", "..\\evil", "C:\\evil", "C:evil", "\\\\host\\evil", "./..", "Task/\nevil"],
)
def test_a_name_that_leads_out_stops_everything(tmp_path, kind, name):
    archive = pack(tmp_path / "archive", FILES | {name: b"evil"}, kind)
    before = set(tmp_path.rglob("*"))
    with pytest.raises(BadArchive, match="not unpacked"):
        unpack(archive, tmp_path / "in" / "out")
    assert set(tmp_path.rglob("*")) == before


def test_names_from_windows_are_folders_too(tmp_path):
    with zipfile.ZipFile(tmp_path / "archive", "w") as archive:
        info = zipfile.ZipInfo("x")
        info.filename = "Task\\imagesTr\\a.nii"
        archive.writestr(info, b"scan")
    unpack(tmp_path / "archive", tmp_path / "out")
    assert found(tmp_path / "out") == {"Task/imagesTr/a.nii": b"scan"}


@pytest.mark.parametrize(
    ("name", "target", "kind"),
    [
        ("Task/out", "../../etc/passwd", tarfile.SYMTYPE),
        ("Task/out", "/etc/passwd", tarfile.SYMTYPE),
        ("Task/out", "/etc/passwd", tarfile.LNKTYPE),
        ("Task/out", "imagesTr", tarfile.SYMTYPE),  # a folder: files behind it would be written through the link
        ("Task/out", "out", tarfile.SYMTYPE),
        ("Task/out", "", tarfile.FIFOTYPE),
        ("Task/out", "", tarfile.CHRTYPE),
    ],
)
def test_a_link_that_leads_out_or_nowhere_stops_everything(tmp_path, name, target, kind):
    with pytest.raises(BadArchive, match="not unpacked"):
        unpack(link(tmp_path / "archive", name, target, kind), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("target", "kind"), [("../labelsTr/a.nii.gz", tarfile.SYMTYPE), ("Task/labelsTr/a.nii.gz", tarfile.LNKTYPE)]
)
def test_a_link_within_becomes_a_copy(tmp_path, target, kind):
    unpack(link(tmp_path / "archive", "Task/imagesTr/b.nii.gz", target, kind), tmp_path / "out")
    assert found(tmp_path / "out") == FILES | {"Task/imagesTr/b.nii.gz": FILES["Task/labelsTr/a.nii.gz"]}
    assert not any(path.is_symlink() or path.stat().st_nlink > 1 for path in (tmp_path / "out").rglob("*.gz"))


def test_a_link_in_a_zip_stops_everything(tmp_path):
    with zipfile.ZipFile(tmp_path / "archive", "w") as archive:
        info = zipfile.ZipInfo("Task/out")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(BadArchive, match="link"):
        unpack(tmp_path / "archive", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_wherever_an_archive_ends_early_it_is_noticed_before_anything_is_written(tmp_path, kind):
    whole = pack(tmp_path / "whole", FILES, kind).read_bytes()
    # A tar is whole from its first block of zeros on; what follows only fills it up.
    least = len(whole.rstrip(b"\0")) if kind == "tar" else len(whole) - 1
    for length in {*range(0, least, 97), least // 512 * 512, least - 1}:
        (tmp_path / "cut").write_bytes(whole[:length])
        with pytest.raises(BadArchive):
            unpack(tmp_path / "cut", tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_a_tar_cut_between_two_files_is_noticed(tmp_path):
    whole = pack(tmp_path / "archive", FILES).read_bytes()
    with tarfile.open(tmp_path / "archive") as archive:
        second = archive.getmembers()[1].offset
    (tmp_path / "archive").write_bytes(whole[:second])
    with tarfile.open(tmp_path / "archive") as archive:
        assert len(archive.getmembers()) == 1, "tarfile itself takes it for a whole archive of one file"
    with pytest.raises(BadArchive, match="ends early"):
        unpack(tmp_path / "archive", tmp_path / "out")


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_bit_is_noticed_where_the_format_can_tell(tmp_path, kind):
    content = bytearray(pack(tmp_path / "archive", FILES, kind).read_bytes())
    place = 1500 if kind != "tar" else 512 * 2 + 10  # in compressed content; in the second header of a plain tar
    content[place] ^= 0xFF
    (tmp_path / "archive").write_bytes(content)
    with pytest.raises(BadArchive):
        unpack(tmp_path / "archive", tmp_path / "out")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<!DOCTYPE html><html>Log in</html>", "web page"),
        (b"\n<HTML>", "web page"),
        (b"", "neither"),
        (b"\x1f\x8b\x08" + bytes(20), "neither"),
        (os.urandom(2000), "neither"),
    ],
)
def test_what_is_no_archive_is_named(tmp_path, content, words):
    (tmp_path / "archive").write_bytes(content)
    with pytest.raises(BadArchive, match=words):
        unpack(tmp_path / "archive", tmp_path / "out")


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_an_archive_without_files_is_an_error(tmp_path, kind):
    with pytest.raises(BadArchive, match="no files"):
        unpack(pack(tmp_path / "archive", JUNK, kind), tmp_path / "out")


def test_a_file_that_is_also_a_folder_is_an_error(tmp_path):
    with pytest.raises(BadArchive, match="one name"):
        unpack(pack(tmp_path / "archive", {"a": b"1", "a/b": b"2"}), tmp_path / "out")


def test_the_last_of_two_files_of_one_name_counts(tmp_path):
    pack(tmp_path / "archive", {"a": b"old"})
    with tarfile.open(tmp_path / "archive", "a") as archive:
        member = tarfile.TarInfo("./a")
        member.size = 6
        archive.addfile(member, io.BytesIO(b"newest"))
    unpack(tmp_path / "archive", tmp_path / "out")
    assert found(tmp_path / "out") == {"a": b"newest"}


def test_a_locked_zip_is_left_for_its_user(tmp_path):
    content = bytearray(pack(tmp_path / "archive", {"a": b"1"}, "zip").read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "archive").write_bytes(content)
    with pytest.raises(DataError, match="password") as error:
        unpack(tmp_path / "archive", tmp_path / "out")
    assert not isinstance(error.value, BadArchive)


def test_what_does_not_fit_is_not_begun(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100))
    with pytest.raises(DataError, match="too small") as error:
        unpack(pack(tmp_path / "archive", FILES), tmp_path / "out")
    assert not isinstance(error.value, BadArchive)
    assert found(tmp_path / "out") == {}
