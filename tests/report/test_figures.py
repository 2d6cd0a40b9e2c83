"""Figures: proportions, colours and choices, looked at as pixels."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_hex, to_rgb
from PIL import Image

from medae.errors import DataError, GeometryError
from medae.metrics.anomaly import AnomalyEvaluation
from medae.metrics.voxelscores import VoxelScores
from medae.report import canvas
from medae.report.canvas import MUTED
from medae.report.colours import LABELS, label_colour
from medae.report.figures_anomaly import (
    FOUND,
    INVENTED,
    MISSED,
    AnomalyCase,
    heatmap_panels,
    precision_recall,
    recall_by_lesion_size,
    scan_scores,
)
from medae.report.figures_augmentation import Patches, augmented_patches
from medae.report.figures_segmentation import (
    OverlayCase,
    best_median_worst,
    case_overlays,
    dice_by_volume,
    dice_strip,
    label_colours,
    overlay,
    reliability_diagram,
)
from medae.report.figures_training import loss_curves, reconstruction_grid
from medae.report.mosaic import Mosaic, Panel, Row, draw, window, windows_of


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def count_of(path: Path, colour: str, rows: slice = slice(None)) -> int:
    """Pixels within 12 of a colour, in each of red, green, blue."""
    wanted = np.round(np.array(to_rgb(colour)) * 255)
    return int((np.abs(pixels(path)[rows] - wanted).max(axis=-1) <= 12).sum())


def ball(shape: tuple[int, int, int], centre: tuple[float, float, float], radius: float) -> np.ndarray:
    places = np.indices(shape)
    return sum((axis - middle) ** 2 for axis, middle in zip(places, centre, strict=True)) <= radius**2


HEAD = ball((40, 48, 20), (20, 24, 10), 18)
IMAGE = np.where(HEAD, 100.0, 0.0).astype(np.float32)
LESION = ball(HEAD.shape, (14, 24, 10), 4)


def test_no_figure_is_left_in_global_state(tmp_path: Path) -> None:
    loss_curves([{"step": 1, "loss": 1.0}], tmp_path / "curves.png")
    assert plt.get_fignums() == []


def test_panels_have_true_proportions(tmp_path: Path) -> None:
    white = np.ones((10, 10))
    panels = [Panel(white, (0, 1), (40.0, 80.0)), Panel(white, (0, 1), (120.0, 30.0))]
    bright = pixels(draw(Mosaic([Row(panels)]), tmp_path / "row.png")).min(axis=-1) > 250
    columns = np.flatnonzero(bright.any(axis=0))
    gap = np.flatnonzero(np.diff(columns) > 1)
    left, right = bright[:, : columns[gap[0]] + 1], bright[:, columns[gap[0]] + 1 :]
    widths = [np.count_nonzero(side.any(axis=0)) for side in (left, right)]
    heights = [np.count_nonzero(side.any(axis=1)) for side in (left, right)]
    assert widths[1] / widths[0] == pytest.approx(3, rel=0.02)
    assert heights[0] / widths[0] == pytest.approx(2, rel=0.02)
    assert heights[1] / widths[1] == pytest.approx(0.25, rel=0.03)


def test_window_ignores_the_background() -> None:
    image = np.zeros((10, 10))
    image[2:8, 2:8] = np.linspace(50, 100, 36).reshape(6, 6)
    low, high = window(image)
    assert 50 <= low < 52
    assert 99 < high <= 100
    assert window(image, image > 90)[0] > 90
    assert window(np.full((3, 3), 7.0)) == (7.0, 8.0)


def test_heat_map_panels_colour_hits_inventions_and_misses(tmp_path: Path) -> None:
    def drawn(name: str, prediction: np.ndarray) -> Path:
        case = AnomalyCase("a", IMAGE, 3.0 * prediction, prediction, HEAD, np.eye(4), LESION)
        return heatmap_panels([case], tmp_path / name, threshold=1.5)

    # The outlines have the pure colour; the legend at the foot has it always and is left out.
    above_foot = slice(0, -110)
    invented = ball(HEAD.shape, (28, 24, 10), 4)
    only_found = drawn("found.png", LESION)
    assert count_of(only_found, FOUND, above_foot) > 0
    assert count_of(only_found, INVENTED, above_foot) == 0
    assert count_of(only_found, MISSED, above_foot) == 0
    both_wrong = drawn("wrong.png", invented)
    assert count_of(both_wrong, FOUND, above_foot) == 0
    assert count_of(both_wrong, INVENTED, above_foot) > 0
    assert count_of(both_wrong, MISSED, above_foot) > 0


def test_heat_maps_share_one_scale(tmp_path: Path) -> None:
    def bright(strength: float) -> int:
        case = AnomalyCase("a", IMAGE, strength * LESION, LESION & (strength > 1), HEAD, np.eye(4))
        path = heatmap_panels([case], tmp_path / f"{strength}.png", threshold=1.0)
        return int((pixels(path)[:-110, :, 0] - pixels(path)[:-110, :, 2] > 100).sum())

    assert bright(0.2) == 0  # a weak map is not stretched to full colour
    assert bright(2.0) > 300


@pytest.mark.parametrize("threshold", [0.0, -0.5])
def test_heat_maps_with_no_threshold_above_nought_end_at_their_highest(tmp_path: Path, threshold: float) -> None:
    case = AnomalyCase("a", IMAGE, 3.0 * LESION, LESION, HEAD, np.eye(4))
    path = heatmap_panels([case], tmp_path / "heat.png", threshold=threshold)
    with_threshold = heatmap_panels([case], tmp_path / "same.png", threshold=1.5)
    coloured = [int((pixels(file)[:-110, :, 0] - pixels(file)[:-110, :, 2] > 100).sum()) for file in (path, with_threshold)]
    assert coloured[0] > 300 and coloured[0] == pytest.approx(coloured[1], rel=0.3)


@pytest.mark.parametrize("name", ["a$_$b", "$1_2$", "a$b"])
def test_a_name_with_dollars_is_written_as_it_is(tmp_path: Path, name: str) -> None:
    """Between two of them Matplotlib would typeset a formula, or end in an error."""
    path = overlay(OverlayCase(name, IMAGE, {"reference": LESION}, np.eye(4)), tmp_path / "overlay.png", {1: name})
    assert pixels(path).shape[1] == 1600
    dice_by_volume({name: {name: (1.0, 0.5), "b": (50.0, 0.9)}}, tmp_path / "volume.png")
    dice_strip({name: {name: 0.5, "b": 0.9}, "scratch": {name: 0.4, "b": 0.8}}, tmp_path / "strip.png", reference="scratch")
    figure = canvas.chart(3, 2)
    axes = figure.add_subplot()
    axes.plot([1, 100], [1, 2], label=name)
    axes.set_xscale("log")
    axes.set_title(name)
    axes.legend()
    canvas.save(figure, tmp_path / "chart.png")
    assert not axes.title.get_parse_math() and not axes.get_legend().get_texts()[0].get_parse_math()
    assert any("mathdefault" in label.get_text() and label.get_parse_math() for label in axes.get_xticklabels())


def test_overlay_shows_every_label_in_its_colour(tmp_path: Path) -> None:
    names = {0: "background", 1: "front", 2: "back"}
    labels = LESION.astype(int) + 2 * ball(HEAD.shape, (28, 24, 10), 4)
    path = overlay(OverlayCase("a", IMAGE, {"reference": labels}, np.eye(4)), tmp_path / "overlay.png", names)
    colours = label_colours(names)
    assert list(colours) == ["front", "back"]
    for colour in colours.values():
        assert count_of(path, colour, slice(0, -110)) > 0
    assert count_of(path, LABELS[2]) == 0


def test_case_overlays_take_scans_of_any_shape_and_few_slices(tmp_path: Path) -> None:
    flat = OverlayCase("b", IMAGE[..., :2], {"reference": LESION[..., :2]}, np.diag([1, 1, 6.0, 1]), slice_axis=2)
    deep = OverlayCase("a", IMAGE, {"reference": LESION, "prediction": HEAD}, np.eye(4), detail="Dice 0.5")
    path = case_overlays([deep, flat], tmp_path / "new" / "cases.png", {1: "lesion"})
    assert pixels(path).shape[1] == 1600


def test_best_median_worst_by_hand() -> None:
    scores = {"a": 0.3, "b": 0.9, "c": 0.5, "d": 0.7, "e": 0.6}
    assert best_median_worst(scores) == {"Best": "b", "Median": "e", "Worst": "a"}
    assert best_median_worst({"a": 0.3}) == {"Best": "a"}
    assert best_median_worst({"a": 0.3, "b": 0.2}) == {"Best": "a", "Worst": "b"}
    with pytest.raises(DataError):
        best_median_worst({})


def test_confidence_and_size_are_drawn_in_the_colours_of_arms_and_labels(tmp_path: Path) -> None:
    arms = {"a": {"bins": [(0.55, 0.5, 10), (0.95, 0.7, 90)], "error": 0.2}, "b": {"bins": [(0.9, 0.9, 5)], "error": 0.0}}
    drawn = reliability_diagram(arms, tmp_path / "reliability.png")
    assert count_of(drawn, canvas.SERIES[0]) > count_of(drawn, canvas.SERIES[1]) > 50
    found = dice_by_volume({"one": {"c": (0.5, 0.9), "d": (20.0, 0.2)}, "two": {"c": (3.0, 0.8)}}, tmp_path / "volume.png")
    assert min(count_of(found, label_colour(1)), count_of(found, label_colour(2))) > 20
    assert dice_by_volume({}, tmp_path / "none.png").is_file()


def faint(path: Path, colour: str) -> int:
    """Pixels of a line that lets 72 % of the paper through."""
    return count_of(path, to_hex(1 - 0.28 * (1 - np.array(to_rgb(colour)))))


def test_names_of_cases_stay_clear_of_points_and_the_legend_inside_the_page(tmp_path: Path) -> None:
    cases = {"a case with a long name": (900.0, 0.91), "b": (1000.0, 0.95)}
    beside = {"another with a long name": (1001.0, 0.905), "d": (90.0, 0.94)}
    path = dice_by_volume({"a rather long label": cases, "one more of this length": beside}, tmp_path / "volume.png")
    shown = pixels(path)
    dark = [np.round(0.6 * 255 * np.array(to_rgb(label_colour(value)))) for value in (1, 2)]
    assert all((np.abs(shown - colour).max(axis=-1) <= 12).sum() > 20 for colour in dark), "names are like their label"
    assert shown[:, -8:].min() == 255
    assert shown[:, :4].min() == 255
    alone = dice_by_volume({"one": {"c": (1.0, 0.905), "d": (1.1, 0.915), "e": (2.0, 0.91)}}, tmp_path / "fitted.png")
    rows = np.flatnonzero(
        (np.abs(pixels(alone)[:, :900] - np.round(255 * np.array(to_rgb(label_colour(1))))) < 12).all(-1).any(1)
    )
    assert np.ptp(rows) > 50, "the axis is fitted to values that lie close together"


def test_dice_strip_draws_arms_that_share_some_cases(tmp_path: Path) -> None:
    rising = dice_strip({"scratch": {"a": 0.5, "b": 0.6}, "pretrained": {"a": 0.7, "c": 0.8}}, tmp_path / "two.png")
    alone = dice_strip({"scratch": {"a": 0.5}}, tmp_path / "one.png")
    assert pixels(rising).shape[1] > pixels(alone).shape[1]
    green, red = canvas.SERIES[2], canvas.SERIES[5]
    better, worse = {"a": 0.7, "b": 0.8, "c": 0.6}, {"a": 0.5, "b": 0.6, "c": 0.3}
    for order in ({"scratch": worse, "new": better}, {"new": better, "scratch": worse}):
        joined = dice_strip(order, tmp_path / "joined.png", reference="scratch")
        assert faint(joined, green) > 200 and not faint(joined, red), "the reference is at the left, whatever the order"
    assert faint(dice_strip({"scratch": better, "new": worse}, tmp_path / "worse.png"), red) > 200
    with pytest.raises(DataError, match="pretrained"):
        dice_strip({"scratch": {"a": 0.5}, "pretrained": {}}, tmp_path / "none.png")


def test_loss_curves_have_a_panel_a_kind_and_leave_times_out(tmp_path: Path) -> None:
    history = [{"step": s, "loss": 2.0 / s, "loss/l1": 2.0 / s, "seconds": 9.0} for s in range(1, 6)]
    one = pixels(loss_curves(history, tmp_path / "one.png"))
    more = [{**record, "rate": 1e-3, "dice": 0.5, "hd95": 12.0} for record in history]
    four = pixels(loss_curves(more, tmp_path / "four.png", best_step=3))
    assert four.shape[0] > 1.8 * one.shape[0]
    assert four.shape[1] > 1.8 * one.shape[1]


def test_a_probe_has_its_panel_beside_the_losses_and_the_line_of_its_baseline(tmp_path: Path) -> None:
    history = [{"step": s, "loss": 2.0 / s} for s in range(1, 6)]
    probed = [{**record, "probe/dice": 0.5, "probe/dice/gloss": 0.6, "probe/seconds": 9.0} for record in history]
    alone = pixels(loss_curves(history, tmp_path / "alone.png"))
    beside = loss_curves(probed, tmp_path / "beside.png")
    assert pixels(beside).shape[1] > 1.8 * alone.shape[1]
    assert pixels(beside).shape[0] == alone.shape[0], "two panels, side by side"
    with_baseline = loss_curves([{**record, "probe/untrained": 0.2} for record in probed], tmp_path / "baseline.png")
    assert count_of(with_baseline, MUTED) > count_of(beside, MUTED) + 200, "the dashed line and its name"


def test_loss_curves_survive_a_loss_that_is_not_a_number(tmp_path: Path) -> None:
    history = [{"step": 1, "loss": 1.0}, {"step": 2, "loss": float("nan")}]
    assert loss_curves(history, tmp_path / "nan.png").exists()


@pytest.mark.parametrize("shape", [(12, 16), (12, 16, 8)])
def test_reconstruction_grid_adds_the_difference(tmp_path: Path, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    stack = rng.random((3, *shape))
    axis = 2 if len(shape) == 2 else None
    stages = {"input": stack, "reconstruction": stack + 0.5 * (stack > 0.8)}
    with_difference = pixels(reconstruction_grid(stages, tmp_path / "with.png", slice_axis=axis, samples=["a", "b", "c"]))
    without = pixels(reconstruction_grid(stages, tmp_path / "without.png", slice_axis=axis, difference=None))
    assert with_difference.shape[0] > without.shape[0] + 100
    with pytest.raises(GeometryError, match="differ in shape"):
        reconstruction_grid({"input": stack, "reconstruction": stack[:2]}, tmp_path / "bad.png", slice_axis=axis)
    with pytest.raises(GeometryError, match="axes"):
        reconstruction_grid({"input": stack[0, 0]}, tmp_path / "bad.png")


def test_charts_of_an_evaluation(tmp_path: Path) -> None:
    evaluation = AnomalyEvaluation()
    scores = (IMAGE / 100 + LESION).astype(np.float32)
    evaluation.add("a", scores, LESION, HEAD, LESION, voxel_ml=0.001, scan_score=2.0)
    evaluation.add("b", IMAGE, LESION & False, HEAD, LESION & False, voxel_ml=0.001, scan_score=1.0)
    curve = evaluation.curve()
    assert curve is not None
    point = {"model": (0.9, 0.8)}
    path = precision_recall({"model": curve, "intensity": curve}, tmp_path / "pr.png", operating=point)
    assert count_of(path, canvas.SERIES[1]) > 0
    ten = precision_recall({f"map {place}": curve for place in range(10)}, tmp_path / "ten.png", baselines=["map 9"])
    shown = pixels(ten)[:, int(0.7 * pixels(ten).shape[1]) :]
    for colour in canvas.SERIES[:10]:  # in the legend, which is beside the curves
        near = np.abs(shown - np.round(255 * np.array(to_rgb(colour)))).max(axis=-1) <= 12
        assert near.sum() > 30, colour
    nothing_found = VoxelScores()
    nothing_found.add(np.ones(2), np.array([1, 0]), np.array([0, 1]))
    flat = nothing_found.curve()
    assert flat is not None
    assert precision_recall({"model": flat}, tmp_path / "flat.png").exists()
    assert count_of(scan_scores({"model": evaluation.scans}, tmp_path / "scores.png"), canvas.SERIES[0]) > 0
    strata = {"model": evaluation.strata(), "intensity": evaluation.strata()}
    assert count_of(recall_by_lesion_size(strata, tmp_path / "sizes.png"), canvas.SERIES[0]) > 1000


@pytest.mark.parametrize("flat", [False, True])
def test_augmented_patches_lie_below_their_originals_with_labels_outlined(tmp_path, flat):
    shaded = IMAGE * np.linspace(0.5, 1.5, IMAGE.shape[0], dtype=np.float32)[:, None, None]
    images, labels = np.stack([shaded, shaded]), np.stack([LESION, LESION]).astype(int)
    if flat:
        images, labels = images[..., 10], labels[..., 10]
    rows = {"As read": Patches(images, labels), "Brighter, without labels": Patches(images + 50)}
    path = augmented_patches(rows, tmp_path / "patches.png", slice_axis=2 if flat else None, names={1: "lesion"})
    half = pixels(path).shape[0] // 2
    upper, lower = slice(0, half), slice(half, int(1.8 * half))
    assert count_of(path, LABELS[0], upper) > 200
    assert count_of(path, LABELS[0], lower) == 0
    # one window for both rows: what is brighter looks brighter
    assert pixels(path)[lower].mean() > pixels(path)[upper].mean() + 10


def test_a_picture_without_contrast_takes_the_window_of_the_others() -> None:
    structured = np.linspace(0.0, 100.0, 400).reshape(20, 20)
    air = structured / 1000
    (alone,) = windows_of([air])
    assert alone == window(air), "nothing to compare with"
    first, second, third = windows_of([structured, air, structured / 2])
    assert first == window(structured)
    assert second[1] - second[0] > 50
    assert third == window(structured / 2)


def test_patches_that_may_be_mirrored_have_no_sides(tmp_path: Path) -> None:
    images = np.zeros((2, *IMAGE.shape), dtype=np.float32)

    def bright(turned: bool) -> int:
        path = augmented_patches({"Augmented": Patches(images, turned=turned)}, tmp_path / f"{turned}.png")
        shown = pixels(path)
        return int((shown[int(0.2 * len(shown)) : int(0.8 * len(shown))].min(axis=-1) > 200).sum())

    assert bright(turned=False) > 50, "the marks"
    assert bright(turned=True) == 0


def test_gradients_and_scores_have_panels_apart(tmp_path: Path) -> None:
    history = [{"step": s, "loss": 2.0 / s, "dice": 0.5, "gradient_norm": 0.3} for s in range(1, 6)]
    together = [{key: value for key, value in record.items() if key != "gradient_norm"} for record in history]
    two, three = (pixels(loss_curves(rows, tmp_path / f"{len(rows[0])}.png")) for rows in (together, history))
    assert three.shape[1] > 1.3 * two.shape[1], "both are between 0 and 1, and yet not the same kind"


def test_a_legend_of_many_labels_has_lines_and_every_label_a_colour_of_its_own(tmp_path: Path) -> None:
    names = {value: f"structure number {value}" for value in range(1, 22)}
    assert len({label_colour(value) for value in names}) == 21
    panel = Panel(np.zeros((8, 8)), (0.0, 1.0), (8.0, 8.0))
    few = draw(Mosaic([Row([panel])], legend={"one": LABELS[0]}), tmp_path / "few.png")
    many = draw(Mosaic([Row([panel])], legend=label_colours(names)), tmp_path / "many.png")
    assert pixels(many).shape[1] == pixels(few).shape[1]
    assert pixels(many).shape[0] > pixels(few).shape[0] + 100
    assert all(count_of(many, label_colour(value)) > 0 for value in names), "none is beyond the border"
