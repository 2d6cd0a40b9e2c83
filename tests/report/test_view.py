"""A scan with its results inside a page: places and values survive, it stays small, and a browser shows it."""

from __future__ import annotations

import base64
import gzip
import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from medae.report.html import Report
from medae.report.view import MOST_VOXELS, Backdrop, Overlay, View
from medae.report.viewer import MOST, niivue
from medae.volume import NativeGrid

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def grid(shape: tuple[int, int, int], affine: np.ndarray) -> NativeGrid:
    return NativeGrid(shape=shape, affine=tuple(map(tuple, affine.tolist())))


def opened(text: str) -> nib.Nifti1Image:
    return nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(text)))


def test_large_scans_are_thinned_out_along_their_finest_axes():
    image = np.random.default_rng(0).uniform(size=(320, 320, 40)).astype(np.float32)
    found = Backdrop.of(image, np.diag([0.5, 0.5, 3.0, 1.0]))
    assert found.strides == (2, 2, 1) and found.array.shape == (160, 160, 40) and found.array.size <= MOST_VOXELS
    assert np.allclose(found.affine, np.diag([1.0, 1.0, 3.0, 1.0]))
    assert found.array.dtype == np.uint8 and found.array.min() == 0 and found.array.max() == 255
    small = Backdrop.of(image[:20, :20, :20], np.eye(4))
    assert small.strides == (1, 1, 1)


def view_of(affine: np.ndarray, shape=(9, 12, 15)) -> View:
    """A scan whose file has other axes, with a label and a map that peaks in one voxel of the file."""
    native = grid(shape, affine)
    ras_shape, ras_affine = native.ras()
    backdrop = Backdrop.of(np.random.default_rng(0).uniform(size=ras_shape).astype(np.float32), ras_affine)
    labels, heat = np.zeros(shape, np.int16), np.zeros(shape, np.float32)
    labels[2, 3, 4], heat[7, 1, 5], heat[2, 3, 4] = 2, 4.0, 1.0
    layers = [
        Overlay.map("heat", backdrop.reduced(heat, native, highest=True), (0.0, 3.0)),
        Overlay.labels("labels", backdrop.reduced(labels, native, highest=False), {1: "one", 2: "two"}),
    ]
    return View("a <scan>", backdrop, layers, ["a line"])


@pytest.mark.parametrize("affine", [np.eye(4), np.array([[0, 0, -2.0, 5], [1.5, 0, 0, -7], [0, -1.0, 0, 3], [0, 0, 0, 1]])])
def test_places_and_values_survive(affine: np.ndarray):
    content = view_of(affine).content()
    heat, labels = (opened(each["volume"]) for each in content["overlays"])
    values = heat.get_fdata()
    assert values.max() == pytest.approx(4.0) and content["overlays"][0]["highest"] == pytest.approx(4.0)
    peak = nib.affines.apply_affine(heat.affine, np.argwhere(values == values.max())[0])
    assert np.allclose(peak, nib.affines.apply_affine(affine, (7, 1, 5))) and np.allclose(peak, content["at"])
    place = nib.affines.apply_affine(labels.affine, np.argwhere(np.asarray(labels.dataobj) == 2)[0])
    assert place == pytest.approx(nib.affines.apply_affine(affine, (2, 3, 4)))
    assert [entry[:2] for entry in content["overlays"][1]["labels"]] == [[1, "one"], [2, "two"]]


def test_what_is_thinned_out_keeps_the_highest_of_a_map():
    native = grid((320, 320, 40), np.diag([0.5, 0.5, 3.0, 1.0]))
    backdrop = Backdrop.of(np.zeros((320, 320, 40), np.float32), native.matrix())
    heat = np.zeros((320, 320, 40), np.float32)
    heat[101, 33, 7] = 5.0
    assert backdrop.reduced(heat, native, highest=True)[50, 16, 7] == 5.0
    assert backdrop.reduced(heat, native, highest=True).shape == backdrop.array.shape
    assert backdrop.reduced(heat, native, highest=False).max() == 0.0


def test_a_tile_is_a_small_picture():
    tile = view_of(np.eye(4)).tile()
    assert len(tile) < 20_000 and Image.open(io.BytesIO(tile)).format == "WEBP"


def test_where_there_is_nothing_to_see_the_middle_is_shown():
    backdrop = Backdrop.of(np.zeros((5, 5, 5), np.float32), np.diag([2.0, 2.0, 2.0, 1.0]))
    assert View("x", backdrop, []).place() == [4.0, 4.0, 4.0]
    assert View("x", backdrop, [Overlay.map("m", np.zeros((5, 5, 5)), (0, 1))]).place() == [4.0, 4.0, 4.0]
    inside = np.zeros((5, 5, 5), np.int16)
    inside[1, 1, 1] = 1
    assert View("x", backdrop, [Overlay.labels("l", inside, {1: "a"})]).place() == [2.0, 2.0, 2.0]


def test_the_page_is_whole_and_asks_nobody(tmp_path: Path):
    page = Report("Predictions").viewer([view_of(np.eye(4))] * (MOST + 2)).write(tmp_path / "page.html")
    text = page.read_text()
    assert niivue() is not None and len(re.findall(r"</script>", text)) == 4
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)
    assert policy and policy[1].startswith("default-src 'none'; img-src data: blob:; connect-src data:;")
    assert policy[1].count("'sha256-") == 3
    data = re.search(r'<script type="application/json">(.+?)</script>', text)
    assert data and len(json.loads(data[1])) == MOST and "<" not in data[1]
    without = Report("Nothing").viewer([]).write(tmp_path / "empty.html").read_text()
    assert "viewer" not in re.sub(r"<style>.*?</style>", "", without, flags=re.DOTALL) and "connect-src" not in without


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_a_browser_shows_the_scan(tmp_path: Path):
    page = Report("Predictions").viewer([view_of(np.eye(4), (40, 40, 40))]).write(tmp_path / "page.html")
    how = ["--headless", "--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    how += ["--virtual-time-budget=20000", "--window-size=1000,900", f"--user-data-dir={tmp_path / 'profile'}"]
    command = [str(CHROMIUM), *how, f"--screenshot={tmp_path / 'page.png'}", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert "data-failed" not in done.stdout and 'data-ready="a &lt;scan&gt;"' in done.stdout, done.stderr[-2000:]
    assert "shown from" in done.stdout and "brightest at" in done.stdout and "a line" in done.stdout
    colours = np.asarray(Image.open(tmp_path / "page.png").convert("RGB")).reshape(-1, 3)
    assert len(np.unique(colours, axis=0)) > 300, "the planes are drawn: noise in many greys, the cross, the map"
