"""The forms in which predictions are written: NIfTI, nnU-Net, BIDS derivatives, 3D Slicer's NRRD, DICOM."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import medae
from medae.artifact import Artifact
from medae.config import digest, validate
from medae.data.bids_names import entities_of
from medae.errors import DataError, MedaeError
from medae.export.at_work import Layer
from medae.export.nifti import write_native
from medae.export.nrrd import write_nrrd, write_seg_nrrd
from medae.formats.dicom.sniff import is_dicom
from medae.formats.endings import NIFTI, stem
from medae.volume import NativeGrid
from pipelines.files import write_json, write_text
from pipelines.inputs import Scan

Form = Literal["nifti", "nnunet", "bids", "nrrd", "dicom"]


class Writer:
    """Writes NIfTI beside one another: ``NAME.nii.gz``, ``NAME_heatmap.nii.gz``. The other forms differ in what they say.

    output: the folder, or of a single scan the file that is asked for. artifacts: the models. codes: what segments are in
    DICOM, by name, before the shipped table of ``medae.export.dicom.codes``.
    """

    def __init__(self, output: Path, single: bool, artifacts: Sequence[Artifact], codes: Mapping[str, Any]) -> None:
        self.output, self.single, self.codes = output, single, codes
        self.digests = [each.digest for each in artifacts]
        meta = artifacts[0].meta
        self.channels = meta.plan.space.channels
        self.labels = meta.labels if meta.kind == "segmenter" else {}

    @property
    def about(self) -> dict[str, Any]:
        """What made the results, as BIDS' GeneratedBy says it."""
        names = ", ".join(each[:12] for each in self.digests)
        return {"Name": "medae", "Version": medae.__version__, "Description": f"model {names}"}

    @property
    def folder(self) -> Path:
        """Where results lie."""
        return self.output.parent if self.single else self.output

    def check(self, scan: Scan) -> None:
        """Raises DataError for a scan that this form cannot be written of."""

    def path(self, scan: Scan, layer: str, ending: str = ".nii.gz") -> Path:
        """Of a layer's file."""
        if self.single and not layer and self.output.name.endswith(NIFTI) and ending == ".nii.gz":
            return self.output
        name = stem(self.output) if self.single else scan.name
        return self.folder / f"{name}{'_' if layer else ''}{layer}{ending}"

    def files(self, scan: Scan, layers: Sequence[str]) -> list[Path]:
        """All that are written of a scan. layers: their names."""
        findings = [self.path(scan, "findings", ".csv")] if "heatmap" in layers else []
        return [*(self.path(scan, layer) for layer in layers), *findings]

    def beside(self) -> list[Path]:
        """The files of the folder as a whole."""
        return []

    def write(self, scan: Scan, native: NativeGrid, layers: list[Layer]) -> tuple[list[Path], list[str]]:
        """The files that were written, and what is to be said of them."""
        files = []
        for layer in layers:
            files.append(self.path(scan, layer.name))
            write_native(layer.array, native, files[-1], labels=layer.labels is not None)
        return files, []

    def finish(self) -> None:
        """What the folder as a whole needs."""


class NNUNetWriter(Writer):
    """The names of nnU-Net, which are those of NIfTI here, and its ``dataset.json``."""

    def beside(self) -> list[Path]:
        """``dataset.json``."""
        return [self.folder / "dataset.json"]

    def finish(self) -> None:
        """Write ``dataset.json``."""
        content = {
            "channel_names": {str(place): name for place, name in enumerate(self.channels)},
            "labels": {name: value for value, name in (self.labels or {0: "background", 1: "anomaly"}).items()},
            "file_ending": ".nii.gz",
        }
        write_json(self.folder / "dataset.json", content)


class BIDSWriter(Writer):
    """A BIDS derivative: the entities of the scan are kept, what is added is in ``desc`` and the suffix.

    Heat maps have no suffix in BIDS, so ``.bidsignore`` names them.
    """

    SUFFIXES = {  # noqa: RUF012 (of no instance)
        "": "dseg",
        "heatmap": "desc-anomaly_heatmap",
        "anomaly": "desc-anomaly_mask",
        "mask": "desc-scored_mask",
        "disagreement": "desc-disagreement_heatmap",
        "findings": "desc-anomaly_findings",
    }

    def path(self, scan: Scan, layer: str, ending: str = ".nii.gz") -> Path:
        """In the folders of the subject and the session."""
        entities = self._entities(scan)
        parts = [f"{key}-{value}" for key, value in entities.items()]
        place = self.folder.joinpath(*[part for part in parts if part.startswith(("sub-", "ses-"))], "anat")
        if ending == ".csv":
            ending = ".tsv"
        return place / f"{'_'.join([*parts, self.SUFFIXES[layer]])}{ending}"

    def _entities(self, scan: Scan) -> dict[str, str]:
        """Those of the file's name, where that is the user's own word for the scan, else those of its id."""
        by_file = scan.case is None or self._is_bids(scan)
        found = entities_of(next(iter(scan.paths.values()))[0]) if by_file else entities_of(Path(f"{scan.name}_scan"))
        found = {key: value for key, value in found.items() if key != "desc"}
        return found if "sub" in found else {"sub": re.sub(r"[^A-Za-z0-9]", "", scan.name) or "scan"}

    def _is_bids(self, scan: Scan) -> bool:
        return scan.manifest is not None and scan.manifest.source == "bids"

    def files(self, scan: Scan, layers: Sequence[str]) -> list[Path]:
        """With the sidecars."""
        found = super().files(scan, layers)
        return [*found, *(self.path(scan, layer, ".json") for layer in layers)]

    def beside(self) -> list[Path]:
        """What describes the derivative."""
        return [self.folder / name for name in ("dataset_description.json", ".bidsignore", "dseg.tsv")]

    def write(self, scan: Scan, native: NativeGrid, layers: list[Layer]) -> tuple[list[Path], list[str]]:
        """With a sidecar that names the source and what values mean."""
        files, said = super().write(scan, native, layers)
        source = []
        if self._is_bids(scan) and scan.case is not None:
            source = [f"bids::{file}" for ref in scan.case.images.values() for file in ref.files]
        for layer, file in zip(layers, list(files), strict=True):
            sidecar: dict[str, Any] = {"SpatialReference": "orig", "GeneratedBy": [self.about]}
            sidecar |= {"Sources": source} if source else {}
            if layer.labels is not None:
                sidecar["LabelMap"] = {name: value for value, name in layer.labels.items()}
            if layer.meaning:
                sidecar["Description"] = layer.meaning
            files.append(file.with_name(f"{stem(file)}.json"))
            write_json(files[-1], sidecar)
        return files, said

    def finish(self) -> None:
        """Write ``dataset_description.json``, ``.bidsignore``, and of a segmenter ``dseg.tsv``."""
        content = {"Name": "Predictions of medae", "BIDSVersion": "1.10.0", "DatasetType": "derivative"}
        write_json(self.folder / "dataset_description.json", {**content, "GeneratedBy": [self.about]})
        write_text(self.folder / ".bidsignore", "*_heatmap.*\n*_findings.tsv\nresult.json\ncases.csv\nreport.html\n")
        if self.labels:
            rows = "".join(f"{value}\t{name}\n" for value, name in self.labels.items())
            write_text(self.folder / "dseg.tsv", f"index\tname\n{rows}")


class NRRDWriter(Writer):
    """``NAME.seg.nrrd``, which 3D Slicer opens as a segmentation with its names and colours; maps as ``.nrrd``."""

    def path(self, scan: Scan, layer: str, ending: str = ".nii.gz") -> Path:
        """Label maps end in ``.seg.nrrd``."""
        if ending == ".nii.gz":
            ending = ".nrrd" if layer in ("heatmap", "disagreement") else ".seg.nrrd"
        return super().path(scan, layer, ending)

    def write(self, scan: Scan, native: NativeGrid, layers: list[Layer]) -> tuple[list[Path], list[str]]:
        """As NRRD."""
        files = []
        for layer in layers:
            files.append(self.path(scan, layer.name))
            if layer.labels is None:
                write_nrrd(layer.array, native, files[-1])
            else:
                write_seg_nrrd(layer.array, native, files[-1], layer.labels)
        return files, []


class DICOMWriter(Writer):
    """DICOM Segmentation for label maps, Parametric Map for maps of numbers, of scans that are DICOM series themselves."""

    def check(self, scan: Scan) -> None:
        """Raises DataError unless the scan is DICOM."""
        if not all(is_dicom(path) for paths in scan.paths.values() for path in paths[:1]):
            raise DataError(
                "Results as DICOM refer to the series they were made of, and this scan is no DICOM.",
                where=scan.name,
                remedy="Give the DICOM tree, or choose another form (--to nifti).",
            )

    def path(self, scan: Scan, layer: str, ending: str = ".nii.gz") -> Path:
        """``NAME_seg.dcm`` for a segmenter's label map, else ``NAME_LAYER.dcm``."""
        return super().path(scan, layer or "seg", ".dcm") if ending == ".nii.gz" else super().path(scan, layer, ending)

    def write(self, scan: Scan, native: NativeGrid, layers: list[Layer]) -> tuple[list[Path], list[str]]:
        """Each layer as a file of its own, in a series of its own."""
        # highdicom takes seconds to import
        from medae.export.dicom.codes import ANOMALY_SCORE, DISAGREEMENT, NO_UNITS, SegmentCode
        from medae.export.dicom.identity import Algorithm
        from medae.export.dicom.parametric_map import write_parametric_map
        from medae.export.dicom.segmentation import write_segmentation

        series, algorithm = self._series(scan), Algorithm(self._digest())
        codes = {name: validate(SegmentCode, code, where=f"codes.{name}") for name, code in self.codes.items()}
        files, said = [], list[str]()
        try:
            for layer in layers:
                files.append(self.path(scan, layer.name))
                if layer.labels is not None:
                    said += write_segmentation(
                        layer.array, native, series, files[-1], names=layer.labels, codes=codes, algorithm=algorithm
                    )
                else:
                    quantity = ANOMALY_SCORE if layer.name == "heatmap" else DISAGREEMENT
                    said += write_parametric_map(
                        layer.array,
                        native,
                        series,
                        files[-1],
                        quantity=quantity,
                        unit=NO_UNITS,
                        window=layer.window,
                        algorithm=algorithm,
                    )
        except MedaeError as error:  # which may name a file of the series, and such names are those of patients
            raise type(error)(error.what, where=scan.name, remedy=error.remedy) from error
        return files, list(dict.fromkeys(said))

    def _series(self, scan: Scan) -> list[Path]:
        """The files of the image whose grid the results have: the first of the model's channels that the scan has."""
        paths = scan.paths
        return next((paths[name] for name in self.channels if name in paths), next(iter(paths.values())))

    def _digest(self) -> str:
        return self.digests[0] if len(self.digests) == 1 else digest({"models": self.digests})


WRITERS: dict[Form, type[Writer]] = {
    "nifti": Writer,
    "nnunet": NNUNetWriter,
    "bids": BIDSWriter,
    "nrrd": NRRDWriter,
    "dicom": DICOMWriter,
}
