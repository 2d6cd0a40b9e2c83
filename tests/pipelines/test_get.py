"""``medae data``: from an address to a data set that ``medae check`` takes, with its licence and its source."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from filelock import FileLock

from medae.data.catalogue import KNOWN, PublicSet, find_known
from medae.data.origin import RECORD, read_record
from medae.data.sources import AutoSource, detect_format, open_manifest
from medae.errors import ConfigError, DataError
from pipelines import cli, get

NO_CHECKSUMS = {"sha256": None, "md5": None}


def scan() -> bytes:
    return nib.Nifti1Image(np.arange(64, dtype=np.int16).reshape(4, 4, 4) % 3, np.eye(4)).to_bytes()


def packed(top: str = "Task04_Hippocampus/", **changes: object) -> bytes:
    """A small Decathlon task as an archive."""
    description = {
        "name": "Hippocampus",
        "licence": "CC-BY-SA 4.0",
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "Anterior", "2": "Posterior"},
        "training": [{"image": "./imagesTr/h_1.nii", "label": "./labelsTr/h_1.nii"}],
        "test": [],
    }
    description = {key: value for key, value in (description | changes).items() if value is not None}
    files = {"dataset.json": json.dumps(description).encode(), "imagesTr/h_1.nii": scan(), "labelsTr/h_1.nii": scan()}
    return tar({f"{top}{name}": content for name, content in (files | {"imagesTr/._h_1.nii": b"junk"}).items()})


def tar(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


ARCHIVE = packed()


@pytest.fixture(autouse=True)
def _place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEDAE_DATA", str(tmp_path / "data"))
    monkeypatch.setattr("medae.data.download.PAUSES", (0.0, 0.0))


def fetched(wanted, to=None, name=None, keep=False, as_json=False, **checksums):
    return get.run(wanted, to, name, NO_CHECKSUMS | checksums, keep, as_json)


def left(folder):
    """What lies in the folder of data sets."""
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_an_address_becomes_a_data_set(web, tmp_path, capsys):
    url = web.put("Task04_Hippocampus.tar", ARCHIVE)
    result = fetched(url, sha256=hashlib.sha256(ARCHIVE).hexdigest().upper())
    folder = tmp_path / "data" / "Task04_Hippocampus"
    assert left(tmp_path / "data") == ["Task04_Hippocampus"]
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == {
        "dataset.json",
        "imagesTr/h_1.nii",
        "labelsTr/h_1.nii",
        RECORD,
    }
    assert detect_format(folder) == result["layout"] == "msd"
    record = json.loads((folder / RECORD).read_text())
    assert record["url"] == url
    assert record["sha256"] == hashlib.sha256(ARCHIVE).hexdigest()
    assert record["md5"] == hashlib.md5(ARCHIVE).hexdigest()
    assert record["licence"] == "CC-BY-SA 4.0"
    assert (record["bytes"], record["files"]) == (len(ARCHIVE), 3)
    shown = capsys.readouterr()
    assert "Next: medae check data/Task04_Hippocampus" in shown.out
    assert "Layout: msd" in shown.out
    assert "Licence: CC-BY-SA 4.0" in shown.out
    assert "Licence: known when it is unpacked" in shown.err
    assert str(tmp_path) not in shown.out + shown.err + json.dumps(record)
    assert [case.id for case in open_manifest(AutoSource(root=folder)).cases] == ["h_1"]


def test_what_is_there_is_not_fetched_again(web, tmp_path, capsys):
    url = web.put("set.tar", ARCHIVE)
    first = fetched(url)
    second = fetched(url, sha256=first["sha256"])
    assert len(web.asked) == 1
    assert (first["fetched"], second["fetched"]) == (True, False)
    assert {**second, "fetched": True} == first
    assert "there already" in capsys.readouterr().out


def test_an_address_that_differs_in_its_query_is_another_source(web, tmp_path):
    url = web.put("set.tar", ARCHIVE)
    first = fetched(f"{url}?files=A.tar")
    with pytest.raises(DataError, match="from another source"):
        fetched(f"{url}?files=B.tar")
    with pytest.raises(DataError, match="from an archive with another checksum"):
        fetched(f"{url}?files=B.tar", sha256="0" * 64)
    assert not fetched(f"{url}?files=B.tar", sha256=first["sha256"])["fetched"], "the same bytes, such as signed anew"
    assert not fetched(f"{url}?files=A.tar")["fetched"]
    record = tmp_path / "data/set" / RECORD
    record.write_text(json.dumps({key: value for key, value in first.items() if key != "url_sha256"}))
    with pytest.raises(DataError, match="from another source"):
        fetched(f"{url}?files=A.tar")
    assert len(web.asked) == 1


def test_a_part_of_another_query_does_not_become_the_data_set(web, monkeypatch):
    """The archive is there, whole, when the unpacking fails; the next command asks for another one."""
    url = web.put("set.tar", ARCHIVE, etag=None)
    with monkeypatch.context() as patch:
        patch.setattr(get, "unpack", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            fetched(f"{url}?files=A.tar")
    other = packed("Other/")
    web.put("set.tar", other, etag=None)
    assert fetched(f"{url}?files=B.tar")["sha256"] == hashlib.sha256(other).hexdigest()


def test_the_given_checksum_is_compared_with_what_is_there(web):
    url = web.put("set.tar", ARCHIVE)
    fetched(url)
    with pytest.raises(DataError, match="another checksum"):
        fetched(url, md5="0" * 32)


def test_a_known_name_takes_address_and_checksum_from_monai_and_shows_the_licence_first(web, tmp_path, capsys, monkeypatch):
    url = web.put("Task04_Hippocampus.tar", ARCHIVE, states=[404])
    monkeypatch.setattr(PublicSet, "archive", lambda known: (url, hashlib.md5(ARCHIVE).hexdigest()))
    with pytest.raises(DataError):
        fetched("Task04_hippocampus")
    shown = capsys.readouterr().err
    assert "Licence: CC BY-SA 4.0, https://creativecommons.org" in shown
    assert "Antonelli" in shown
    result = fetched("hippocampus")
    assert detect_format(tmp_path / "data" / "hippocampus") == "msd"
    assert result["set"] == "Task04_Hippocampus"
    assert result["licence"].startswith("CC BY-SA 4.0")
    assert "No checksum" not in capsys.readouterr().err
    monkeypatch.setattr(PublicSet, "archive", lambda known: pytest.fail("MONAI is not needed for what is there"))
    assert not fetched("hippocampus")["fetched"]


def test_the_known_names_are_monais():
    from monai.apps.datasets import DecathlonDataset

    assert {known.task for known in KNOWN.values()} == set(DecathlonDataset.resource)
    for known in KNOWN.values():
        url, md5 = known.archive()
        assert url.endswith(f"/{known.task}.tar")
        assert len(md5) == 32


@pytest.mark.parametrize("wanted", ["hippocampus", "Task04_Hippocampus", "TASK04", "task04-hippocampus", "Hippocampus"])
def test_names_are_understood_as_people_write_them(wanted):
    assert find_known(wanted).name == "hippocampus"


def test_an_unknown_name_says_which_are_known():
    with pytest.raises(ConfigError, match="Did you mean 'hippocampus'"):
        fetched("hipocampus")


@pytest.mark.parametrize(
    ("wanted", "options", "words"),
    [
        ("ftp://host/set.tar", {}, "cannot be used"),
        ("me:s3cret@host/set.tar", {}, "cannot be used"),
        ("http://[::1/set.tar", {}, "cannot be used"),
        ("https://host/", {}, "--name"),
        ("https://host/set.tar", {"name": "../up"}, "name of a folder"),
        ("https://host/set.tar", {"sha256": "abc"}, "64 hexadecimal"),
        ("https://host/set.tar", {"md5": "g" * 32}, "32 hexadecimal"),
    ],
)
def test_arguments_that_make_no_sense(tmp_path, wanted, options, words):
    with pytest.raises(ConfigError, match=words) as error:
        fetched(wanted, **options)
    assert "s3cret" not in str(error.value)
    assert left(tmp_path / "data") == []


@pytest.mark.parametrize(
    ("file", "name"),
    [("set.tar.gz", "set"), ("My%20Set%21.zip", "My_Set_"), ("..%2F..%2Fset.TGZ", "set"), ("content", "content")],
)
def test_the_folder_is_called_like_the_archive(web, tmp_path, file, name):
    web.put("any", ARCHIVE)
    web.files[f"/a/{file}"] = web.files["/any"]
    fetched(f"http://{web.host}/a/{file}")
    assert left(tmp_path / "data") == [name]


def test_folder_and_name_can_be_chosen(web, tmp_path, monkeypatch):
    url = web.put("set.tar", ARCHIVE)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    result = fetched(url, to=get.Path("~/sets"), name="mine")
    assert left(tmp_path / "home" / "sets") == ["mine"]
    assert result["folder"] == "home/sets/mine"
    monkeypatch.delenv("MEDAE_DATA")
    assert fetched(url)["folder"] == "set"


@pytest.mark.parametrize("content", ["file", "folder", "other", "link"])
def test_what_is_in_the_way_is_left_as_it_is(web, tmp_path, content):
    target = tmp_path / "data" / "set"
    target.parent.mkdir()
    if content == "file":
        target.write_text("mine")
    elif content == "link":
        target.symlink_to("nowhere")
    elif content == "folder":
        target.mkdir()
        (target / "mine.txt").write_text("mine")
    else:
        fetched(web.put("other.tar", ARCHIVE), name="set")
    before, asked = sorted(target.parent.rglob("*")), len(web.asked)
    with pytest.raises(DataError, match="left as it is"):
        fetched(web.put("set.tar", ARCHIVE))
    assert sorted(target.parent.rglob("*")) == before
    assert len(web.asked) == asked


def test_an_empty_folder_is_not_in_the_way(web, tmp_path):
    (tmp_path / "data" / "set").mkdir(parents=True)
    assert fetched(web.put("set.tar", ARCHIVE))["fetched"]


def test_a_wrong_checksum_is_never_unpacked(web, tmp_path):
    url = web.put("set.tar", ARCHIVE)
    for _ in range(2):
        with pytest.raises(DataError, match="another sha256"):
            fetched(url, sha256="0" * 64)
        assert left(tmp_path / "data") == ["set.part"]
    assert len(web.asked) == 2, "the same command fetches it from the beginning"
    assert fetched(url, sha256=hashlib.sha256(ARCHIVE).hexdigest())["fetched"]
    assert len(web.asked) == 2, "with the right one nothing has to be fetched"
    assert left(tmp_path / "data") == ["set"]


def test_an_archive_that_came_damaged_is_asked_for_again(web, tmp_path):
    """The server closes after half, without having said how much there is: only the archive itself can tell."""
    url = web.put("set.tar", ARCHIVE, length=False, cuts=[2000])
    with pytest.raises(DataError, match="damaged or ends early"):
        fetched(url)
    assert left(tmp_path / "data") == ["set.part"]
    assert fetched(url)["fetched"]
    assert left(tmp_path / "data") == ["set"]


def test_an_archive_that_leads_out_writes_nothing(web, tmp_path):
    with pytest.raises(DataError, match="not unpacked"):
        fetched(web.put("set.tar", tar({"set/a.nii": scan(), "../../evil": b"x"})))
    assert left(tmp_path) == ["data"]
    assert left(tmp_path / "data") == ["set.part"]


def test_the_archive_can_be_kept(web, tmp_path):
    url = web.put("set.tar", ARCHIVE)
    fetched(url, keep=True)
    assert left(tmp_path / "data") == ["set", "set.tar"]
    assert (tmp_path / "data" / "set.tar").read_bytes() == ARCHIVE
    with pytest.raises(DataError, match="archive's name"):
        fetched(url, name="again", keep=True)


def test_a_disk_that_is_too_small_is_said_before_the_download(web, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=len(ARCHIVE) + 10))
    with pytest.raises(DataError, match=r"too small.*what is in it"):
        fetched(web.put("set.tar", ARCHIVE))


def test_a_second_process_is_refused(web, tmp_path):
    work = tmp_path / "data" / "set.part"
    work.mkdir(parents=True)
    with FileLock(work / ".lock"), pytest.raises(DataError, match="Another process"):
        fetched(web.put("set.tar", ARCHIVE))
    assert web.asked == []
    assert fetched(web.put("set.tar", ARCHIVE))["fetched"]


@pytest.mark.parametrize(("end", "status"), [(signal.SIGKILL, -9), (signal.SIGINT, 130)])
def test_a_process_that_is_ended_is_taken_up_by_the_next(web, tmp_path, end, status):
    gate = threading.Event()
    url = web.put("set.tar", ARCHIVE, gate=gate)
    command = [sys.executable, "-m", "pipelines.cli", "data", "get", url, "--name", "set"]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell inherit it as ignored
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=dict(os.environ))
    file = tmp_path / "data" / "set.part" / "set.tar"
    until = time.monotonic() + 60
    while (not file.exists() or not file.stat().st_size) and time.monotonic() < until and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(end)
    errors = process.communicate(timeout=60)[1]
    gate.set()
    assert process.returncode == status, errors
    assert ("The same command goes on" in errors) == (end == signal.SIGINT)
    assert left(tmp_path / "data") == ["set.part"]
    size = file.stat().st_size
    assert 0 < size < len(ARCHIVE)
    assert fetched(url, name="set", md5=hashlib.md5(ARCHIVE).hexdigest())["fetched"]
    assert web.asked == [None, f"bytes={size}-"]
    assert left(tmp_path / "data") == ["set"]


def test_an_interrupted_unpacking_begins_anew_without_a_download(web, tmp_path, monkeypatch):
    url = web.put("set.tar", ARCHIVE)
    with monkeypatch.context() as patch:
        patch.setattr(get, "write_record", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            fetched(url)
    assert left(tmp_path / "data") == ["set.part"]
    assert fetched(url)["fetched"]
    assert web.asked == [None]


def test_no_secret_of_an_address_is_shown_or_stored(web, tmp_path, capsys):
    url = web.put("set.tar", ARCHIVE, states=[500, 500, 500]).replace("http://", "http://me:s3cret@") + "?token=s3cret"
    with pytest.raises(DataError) as error:
        fetched(url)
    stored = [path for path in tmp_path.rglob("*") if path.is_file()]
    result = fetched(url)
    stored += [path for path in tmp_path.rglob("*") if path.is_file()]
    shown = capsys.readouterr()
    texts = [str(error.value), shown.out, shown.err, json.dumps(result)]
    texts += [path.read_text(errors="replace") for path in stored if path.exists()]
    assert not any("s3cret" in text for text in texts)
    assert result["url"] == f"http://{web.host}/set.tar?..."
    assert all(header and header.startswith("Basic ") for header in web.authorizations)


@pytest.mark.parametrize(
    ("changes", "licence"),
    [
        ({"licence": None}, "not stated: check the source"),
        ({"licence": None, "license": " CC0 \n 1.0 "}, "CC0 1.0"),
        ({"licence": {"name": "x"}}, "not stated: check the source"),
    ],
)
def test_the_licence_is_the_data_sets_own(web, changes, licence):
    assert fetched(web.put("set.tar", packed(**changes)))["licence"] == licence


@pytest.mark.parametrize("top", ["", "wrapped/"])
def test_a_folder_around_the_data_set_is_taken_off(web, tmp_path, top):
    fetched(web.put("set.tar", packed(top)))
    assert (tmp_path / "data" / "set" / "dataset.json").is_file()


def test_the_only_folder_of_images_is_not_taken_off(web, tmp_path):
    result = fetched(web.put("set.tar", tar({"images/a.nii": scan()})))
    assert (tmp_path / "data" / "set" / "images" / "a.nii").is_file()
    assert result["layout"] == "folder"


def test_in_bids_the_record_lies_where_validators_allow_it(web, tmp_path):
    description = json.dumps({"Name": "x", "BIDSVersion": "1.9.0", "License": "PDDL"}).encode()
    archive = tar({"sub-01/anat/sub-01_T1w.nii": scan(), "dataset_description.json": description})
    result = fetched(web.put("set.tar", archive))
    folder = tmp_path / "data" / "set"
    assert result["layout"] == detect_format(folder) == "bids"
    assert result["licence"] == "PDDL"
    assert left(folder) == ["dataset_description.json", "sourcedata", "sub-01"]
    assert read_record(folder)["sha256"] == hashlib.sha256(archive).hexdigest()
    assert not fetched(f"http://{web.host}/set.tar")["fetched"]


def test_a_data_set_that_is_not_recognised_is_kept_and_said(web, tmp_path, capsys):
    result = fetched(web.put("set.tar", tar({"study/series/1.dcm": b"DICM"})))
    assert (tmp_path / "data" / "set" / "series" / "1.dcm").is_file()
    assert result["layout"] is None
    shown = capsys.readouterr()
    assert "No data set is recognised" in shown.err
    assert "not recognised" in shown.out
    assert str(tmp_path) not in shown.out + shown.err


def test_json_stands_alone_on_stdout(medae, web, tmp_path, capsys):
    result = fetched(web.put("set.tar", ARCHIVE), to=get.Path("sets"), as_json=True)
    assert json.loads(capsys.readouterr().out) == result
    assert result["folder"] == "sets/set"
    assert (result["fetched"], result["layout"], result["files"]) == (True, "msd", 3)
    listed = medae("data", "list", "--json", cwd=tmp_path)
    sets = {known["name"]: known for known in json.loads(listed.stdout)["sets"]}
    assert sets.keys() == KNOWN.keys()
    assert sets["hippocampus"]["licence"] == "CC BY-SA 4.0"


def test_the_command_hands_its_options_on(web, tmp_path, monkeypatch, capsys):
    url = web.put("set.tar", ARCHIVE)
    options = ["--to", "sets", "--name", "mine", "--md5", hashlib.md5(ARCHIVE).hexdigest(), "--keep-archive"]
    for more, status in (["--sha256", "0" * 64], 2), ([], 0):
        monkeypatch.setattr(sys, "argv", ["medae", "data", "get", url, *options, *more])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == status
    shown = capsys.readouterr().err
    assert "another sha256" in shown
    assert "Traceback" not in shown
    assert left(tmp_path / "sets") == ["mine", "set.tar"]


def test_an_address_needs_no_monai_and_the_list_nothing_heavy(web, tmp_path):
    url = web.put("set.tar", ARCHIVE)
    script = f"""
import sys
from pipelines import get
get.list_known(False)
print([name for name in ("torch", "monai", "numpy", "mlflow") if name in sys.modules])
get.run({url!r}, None, None, {{}}, False, False)
print([name for name in ("monai", "mlflow") if name in sys.modules])
"""
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert answer.stdout.splitlines().count("[]") == 2
    assert all(name in answer.stdout for name in KNOWN), "no name is cut short in a narrow window"
