"""Compares brain extractions that run offline from a package.

    python benchmarks/brain_extraction.py                              every candidate that is installed, 12 scans a set
    python benchmarks/brain_extraction.py --only medae --cases 99      one candidate, all scans
    python benchmarks/brain_extraction.py --set oasis --set contrasts  other sets than the two of the decision
    python benchmarks/brain_extraction.py --pictures /tmp/masks        the outlines of the first scans, as PNG
    python benchmarks/brain_extraction.py --table                      the table of what has been measured, as Markdown

The folder of the sets is in MEDAE_DATA. Sets with brains to compare with, label > 0 with holes filled: ``ixi_t1`` (T1 of
healthy heads, DLMUSE parcellation), ``ixi_unseen`` (the 12 of them that medae's own network was neither trained nor chosen
on), ``contrasts`` (each of these 12 in four random contrasts, half without skull, some with lesions), ``oasis`` (T1 without
skull, parcellated by hand): Dice, volume ratio and sensitivity. Sets of patients, without brain masks: ``lgg`` (FLAIR),
``lgg_t1``, ``lgg_t1ce``: the share of each lesion that lies inside the mask, and the mask's share of the image. All are
used with their defaults. A line is added to ``results/brain_extraction.jsonl`` for each candidate and set; nothing was tuned
to these scans.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import time
import warnings
from collections.abc import Callable
from decimal import ROUND_HALF_UP, Decimal
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import machine, python_version, system
from typing import Any

import nibabel as nib
import numpy as np
import yaml
from scipy import ndimage

RESULTS = Path(__file__).parent / "results" / "brain_extraction.jsonl"
Extraction = Callable[[Path], np.ndarray]


def deepbet() -> Extraction:
    """A U-Net of 7,837 T1 scans, weights in the package (Fisch et al. 2024)."""
    from deepbet import BrainExtraction

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        network = BrainExtraction(no_gpu=True)
    return lambda path: np.asarray(network.run(str(path))[1].dataobj) > 0


def median_otsu() -> Extraction:
    """Otsu's threshold of the median-filtered image, with the filter of DIPY's examples for structural scans."""
    from dipy.segment.mask import median_otsu

    return lambda path: median_otsu(nib.load(path).get_fdata(), median_radius=2, numpass=1)[1]


def brainextractor() -> Extraction:
    """FSL's BET rewritten in Python (Smith 2002)."""
    from brainextractor import BrainExtractor

    def run(path: Path) -> np.ndarray:
        with contextlib.redirect_stdout(io.StringIO()):
            tool = BrainExtractor(img=nib.load(path))
            tool.run()
            return np.asarray(tool.compute_mask()) > 0

    return run


def nilearn_mask() -> Extraction:
    """nilearn's compute_brain_mask: the ICBM-152 mask where the scan's header puts it, without a registration."""
    from nilearn.masking import compute_brain_mask

    def run(path: Path) -> np.ndarray:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return np.asarray(compute_brain_mask(nib.load(path), mask_type="whole-brain").dataobj) > 0

    return run


def template() -> Extraction:
    """nilearn's ICBM-152 mask, brought there by SimpleITK: rigid, affine, then B-splines, by mutual information."""
    import SimpleITK as sitk
    from nilearn.datasets import load_mni152_brain_mask, load_mni152_template

    def itk(image: Any) -> Any:
        result = sitk.GetImageFromArray(np.asarray(image.get_fdata(), dtype=np.float32).transpose(2, 1, 0))
        lps = np.diag([-1.0, -1.0, 1.0]) @ image.affine[:3, :3]
        spacing = np.linalg.norm(lps, axis=0)
        result.SetSpacing(spacing.tolist())
        result.SetDirection((lps / spacing).ravel().tolist())
        result.SetOrigin((np.array([-1.0, -1.0, 1.0]) * image.affine[:3, 3]).tolist())
        return result

    brain = itk(load_mni152_template(resolution=2))
    mask = sitk.Cast(itk(load_mni152_brain_mask(resolution=2)) > 0.5, sitk.sitkUInt8)
    around = sitk.BinaryDilate(mask, (3, 3, 3))

    def method(fixed_mask: Any) -> Any:
        registration = sitk.ImageRegistrationMethod()
        registration.SetMetricAsMattesMutualInformation(32)
        registration.SetMetricSamplingStrategy(registration.RANDOM)
        registration.SetMetricSamplingPercentage(0.2, 1)
        registration.SetMetricFixedMask(fixed_mask)
        registration.SetInterpolator(sitk.sitkLinear)
        registration.SetShrinkFactorsPerLevel([4, 2, 1])
        registration.SetSmoothingSigmasPerLevel([4, 2, 1])
        registration.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
        return registration

    def run(path: Path) -> np.ndarray:
        head = itk(nib.load(path))
        transform = sitk.CenteredTransformInitializer(
            brain, head, sitk.Euler3DTransform(), sitk.CenteredTransformInitializerFilter.MOMENTS
        )
        for kind in (sitk.Euler3DTransform, sitk.AffineTransform):
            start = kind(transform) if kind is sitk.Euler3DTransform else _affine(sitk, transform)
            registration = method(around)
            registration.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-3, 200)
            registration.SetOptimizerScalesFromPhysicalShift()
            registration.SetInitialTransform(start, inPlace=True)
            registration.Execute(brain, head)
            transform = start
        inverse = transform.GetInverse()
        near = sitk.Resample(around, head, inverse, sitk.sitkNearestNeighbor)
        bent = sitk.BSplineTransformInitializer(head, [8, 8, 8])
        registration = method(near)
        registration.SetMovingInitialTransform(inverse)
        registration.SetInitialTransform(bent, inPlace=True)
        registration.SetOptimizerAsLBFGSB(numberOfIterations=50)
        registration.Execute(head, brain)
        both = sitk.CompositeTransform([inverse, bent])
        return sitk.GetArrayFromImage(sitk.Resample(mask, head, both, sitk.sitkNearestNeighbor)).transpose(2, 1, 0) > 0

    return run


def _affine(sitk: Any, rigid: Any) -> Any:
    affine = sitk.AffineTransform(3)
    affine.SetCenter(rigid.GetCenter())
    affine.SetMatrix(rigid.GetMatrix())
    affine.SetTranslation(rigid.GetTranslation())
    return affine


def medae() -> Extraction:
    """medae's own network."""
    import torch

    from medae.formats.read import read_array
    from medae.inference.brainmask import MaskNetwork
    from medae.volume import from_ras

    torch.set_num_threads(1)
    network = MaskNetwork(Path(os.environ["MEDAE_BRAIN_NETWORK"])) if "MEDAE_BRAIN_NETWORK" in os.environ else MaskNetwork()

    def run(path: Path) -> np.ndarray:
        array, native = read_array([path], "intensity")
        return from_ras(network(torch.from_numpy(array), native.ras()[1]).mask.numpy(), native.matrix())[0]

    run.version = f", network {network.name.split()[1]}"  # type: ignore[attr-defined]
    return run


CANDIDATES = {
    "medae": (medae, "medae"),
    "deepbet": (deepbet, "deepbet"),
    "median_otsu": (median_otsu, "dipy"),
    "brainextractor": (brainextractor, "brainextractor"),
    "nilearn compute_brain_mask": (nilearn_mask, "nilearn"),
    "template registration": (template, "SimpleITK"),
}


def ixi(root: Path) -> list[tuple[Path, Path]]:
    """Scan and parcellation of each subject."""
    scans = sorted(root.glob("ixi_t1/sub-*/anat/*_T1w.nii.gz"))
    folder = root / "ixi_t1" / "derivatives" / "dlmuse"
    return [(scan, next((folder / scan.parts[-3] / "anat").glob("*_dseg.nii.gz"))) for scan in scans]


def ixi_unseen(root: Path) -> list[tuple[Path, Path]]:
    """Those of the test side of the configuration that medae's network was made with."""
    from medae.data.bids import BIDSSource
    from medae.data.split import SplitConfig, split_subjects

    config = yaml.safe_load(
        (Path(__file__).parents[1] / "configs" / "finetune" / "brainmask.yaml").read_text(encoding="utf-8")
    )
    split = split_subjects(BIDSSource(root=root / "ixi_t1").manifest(), SplitConfig(**config["split"]))
    return [(scan, label) for scan, label in ixi(root) if scan.parts[-3] in split.test]


def contrasts(root: Path) -> list[tuple[Path, Path]]:
    """Renderings of the unseen heads, in the working folder."""
    from medae.data.made import nifti_bytes
    from medae.data.rendered import NOTE
    from medae.seeding import numpy_generator
    from medae.synthesis.head import RenderConfig, classify, render_head

    folder, made = Path("runs") / "contrasts", []
    folder.mkdir(parents=True, exist_ok=True)
    for scan, label in ixi_unseen(root):
        image, labels = (nib.as_closest_canonical(nib.load(path)) for path in (scan, label))
        head = classify(image.get_fdata(dtype=np.float32), ndimage.binary_fill_holes(np.asarray(labels.dataobj) > 0))
        for number in range(4):
            config = RenderConfig(own_contrast=0.0, stripped=float(number % 2))
            rng = numpy_generator(1, "unseen contrast", scan.name, number)
            rendered = render_head(head, image.header.get_zooms()[:3], config, rng)
            paths = [folder / f"{number}-{kind}-{scan.name}" for kind in ("image", "brain")]
            for path, array in zip(paths, (rendered, head.brain.astype(np.uint8)), strict=True):
                path.write_bytes(nifti_bytes(array, image.affine, NOTE))
            made.append((paths[0], paths[1]))
    return made


def oasis(root: Path) -> list[tuple[Path, Path]]:
    """Scan without skull and parcellation by hand of each subject."""
    labels = sorted((root / "oasis_t1").glob("*_dseg.nii.gz"))
    return [(label.with_name(label.name.replace("_dseg", "_T1w")), label) for label in labels]


def lgg(root: Path, folder: str = "lgg", channel: int = 0) -> list[tuple[Path, Path]]:
    """One contrast, FLAIR by default, and the lesion of each patient."""
    labels = sorted((root / folder / "labelsTr").glob("*.nii.gz"))
    ending = f"_{channel:04d}.nii.gz"
    return [(root / folder / "imagesTr" / label.name.replace(".nii.gz", ending), label) for label in labels]


BRAINS = {"ixi_t1": ixi, "ixi_unseen": ixi_unseen, "contrasts": contrasts, "oasis": oasis}
PATIENTS = {
    "lgg": lgg,
    "lgg_t1": partial(lgg, folder="lgg_3ch", channel=1),
    "lgg_t1ce": partial(lgg, folder="lgg_3ch", channel=2),
}
SETS = BRAINS | PATIENTS


def main() -> None:
    """Measure, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="candidates whose names begin so")
    parser.add_argument("--set", choices=list(SETS), action="append", help="by default ixi_unseen and lgg")
    parser.add_argument("--cases", type=int, default=12, help="scans of each set, evenly spread over its list")
    parser.add_argument("--pictures", type=Path, help="folder for the outlines")
    parser.add_argument("--table", action="store_true", help="print the table of the results")
    chosen = parser.parse_args()
    if chosen.table:
        print(table())
        return
    root = Path(os.environ["MEDAE_DATA"])
    for name, (build, package) in CANDIDATES.items():
        if not name.startswith(chosen.only):
            continue
        try:
            extract, release = build(), version(package)
        except (ImportError, PackageNotFoundError) as error:
            print(f"{name}: left out, {error}")
            continue
        for source in chosen.set or ["ixi_unseen", "lgg"]:
            found = SETS[source](root)
            picked = [found[place] for place in np.linspace(0, len(found) - 1, min(chosen.cases, len(found))).astype(int)]
            row = {
                "candidate": name,
                "package": f"{package} {release}{getattr(extract, 'version', '')}",
                "set": source,
                "cases": len(picked),
            }
            row |= measured(extract, picked, source, name, chosen.pictures)
            row |= {"device": "CPU, 1 thread", "python": python_version(), "system": f"{system()} {machine()}"}
            with RESULTS.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)


def measured(extract: Extraction, cases: list[tuple[Path, Path]], source: str, name: str, pictures: Path | None) -> dict:
    """The figures of one candidate on one set; a scan that it cannot do counts as an empty mask."""
    rows, failed, seconds = [], 0, []
    for place, (scan, label) in enumerate(cases):
        image, truth = np.asarray(nib.load(scan).dataobj), np.asarray(nib.load(label).dataobj) > 0
        start = time.process_time()
        try:
            mask = extract(scan)
        except Exception as error:  # a candidate may fail in any way; that is a result too
            print(f"{name} failed on scan {place} of {source}: {type(error).__name__}: {error}")
            mask, failed = np.zeros(image.shape, dtype=bool), failed + 1
        seconds.append(time.process_time() - start)
        if source in BRAINS:
            truth = ndimage.binary_fill_holes(truth)
            both = np.count_nonzero(mask & truth)
            dice = 2 * both / (np.count_nonzero(mask) + np.count_nonzero(truth))
            rows.append((dice, np.count_nonzero(mask) / truth.sum(), both / truth.sum()))
        elif truth.any():
            rows.append((np.count_nonzero(mask & truth) / truth.sum(), mask.mean()))
        if pictures is not None and place < 4:
            pictures.mkdir(parents=True, exist_ok=True)
            picture(image, mask, truth, pictures / f"{name.replace(' ', '-')}_{source}_{place}.png")
    columns = np.array(rows).T
    if source in BRAINS:
        figures = {"dice": columns[0], "volume_ratio": columns[1], "sensitivity": columns[2]}
    else:
        figures = {"lesion_recall": columns[0], "mask_share": columns[1]}
    result: dict[str, Any] = {"failed": failed, "cpu_seconds": round(float(np.mean(seconds)), 2)}
    for key, values in figures.items():
        result |= {key: round(float(values.mean()), 4), f"{key}_min": round(float(values.min()), 4)}
    return result


def picture(image: np.ndarray, mask: np.ndarray, truth: np.ndarray, path: Path) -> None:
    """Three planes through the middle of the truth, mask in red, truth in green."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(12, 4))
    middle = [int(values.mean()) for values in np.nonzero(truth)] if truth.any() else [size // 2 for size in image.shape]
    for axis, (axes_, place) in enumerate(zip(axes, middle, strict=True)):
        axes_.imshow(np.take(image, place, axis).T, cmap="gray", vmax=np.percentile(image, 99.5), origin="lower")
        for array, colour in ((mask, "red"), (truth, "lime")):
            plane = np.take(array, place, axis).T
            if plane.any() and not plane.all():
                axes_.contour(plane, [0.5], colors=colour, linewidths=0.8)
        axes_.axis("off")
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    plt.close(figure)


def table() -> str:
    """The latest line of each candidate and set, as Markdown."""
    latest: dict[tuple[str, str], dict[str, Any]] = {}
    for line in RESULTS.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        latest[row["candidate"], row["set"]] = row
    columns = ("candidate", "set", "scans", "Dice, mean (worst)", "volume ratio", "lesion inside the mask, mean (worst)")
    columns += ("mask's share of the image", "CPU s a scan")
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for name, source in ((name, source) for name in CANDIDATES for source in SETS):
        found = latest.get((name, source))
        if found is None:
            continue
        cells = [f"{name} ({found['package']})", source, str(found["cases"])]
        cells += [_with_worst(found, "dice"), _rounded(found, "volume_ratio", 2), _with_worst(found, "lesion_recall")]
        cells += [_rounded(found, "mask_share", 3), _rounded(found, "cpu_seconds", 1)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _with_worst(row: dict[str, Any], key: str) -> str:
    return f"{_rounded(row, key, 3)} ({_rounded(row, f'{key}_min', 3)})" if key in row else ""


def _rounded(row: dict[str, Any], key: str, places: int) -> str:
    """A figure of a line, half up as people round; empty where the set has none."""
    if key not in row:
        return ""
    return str(Decimal(str(row[key])).quantize(Decimal(10) ** -places, ROUND_HALF_UP))


if __name__ == "__main__":
    main()
