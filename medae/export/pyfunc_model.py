"""The code that MLflow keeps with a logged model and runs to load it ("models from code"): no pickle. Needs medae installed.

``predict`` takes one of

- the path of a scan (a NIfTI file, or the folder of a DICOM series), or a list of paths: it returns the label map of a
  segmenter (int16), or the heat map of a detector (float32), on the voxels of the file;
- a table with a column ``path``, and ``output`` if results are to be written there as NIfTI: it returns a table of the
  numbers that ``medae predict`` gives. This is what ``mlflow models predict --content-type csv`` takes;
- a float32 array ``[B, C, *S]``: images on the plan's grid, normalised by its intensity scheme, channels in its order. It
  returns the network's finest map ``[B, K, *S]`` float32: logits of a segmenter, intensities of an autoencoder.

A model of several channels takes paths in its own order, joined by ``;``.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import torch
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from medae.artifact import Artifact, load_artifact
from medae.data.case import Modality
from medae.errors import DataError, MedaeError
from medae.export.at_work import AtWork, Made, put_to_work
from medae.export.nifti import write_native
from medae.formats.dicom.headers import read_header
from medae.formats.dicom.kinds import modality_of
from medae.formats.dicom.sniff import is_dicom
from medae.models.networks import Network
from medae.preprocessing.prepare import prepare_files


class ScanModel(PythonModel):
    """A medae model behind MLflow's interface."""

    artifact: Artifact
    device: torch.device
    _network: Network | None = None
    _models: AtWork | None = None

    def load_context(self, context: PythonModelContext) -> None:
        """Open the artifact that lies beside this code, on the GPU if there is one."""
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.artifact = load_artifact(Path(context.artifacts["config"]).parent)

    def predict(self, context: PythonModelContext, model_input: np.ndarray, params: dict[str, Any] | None = None) -> Any:
        """See the head of this file. Raises DataError for other input."""
        given: Any = model_input  # MLflow warns of any other hint, and of none
        match given:
            case str() | Path():
                return self._scan(str(given)).layers[0].array
            case pd.DataFrame() if "path" in given:
                rows = given.to_dict("records")
                inputs = {place.resolve() for row in rows for place in _places(str(row["path"]))}
                return pd.DataFrame([self._row(row, inputs) for row in rows])
            case list() if given and all(isinstance(each, str) for each in given):
                return [self._scan(each).layers[0].array for each in given]
            case list() | np.ndarray():
                return self._maps(np.asarray(given))
        raise DataError(
            "The input is neither a path, nor a table with a column 'path', nor an array.",
            where="model_input",
            remedy="Give the path of a scan, or images on the plan's grid as [B, C, *S].",
        )

    def _maps(self, images: np.ndarray) -> np.ndarray:
        encoder = self.artifact.meta.network.encoder
        if images.ndim != 2 + encoder.spatial_dims or images.shape[1] != encoder.in_channels:
            raise DataError(
                f"An array of the shape {images.shape} is no batch of images.",
                where="model_input",
                remedy=f"Give [B, {encoder.in_channels}, {', '.join('IJK'[: encoder.spatial_dims])}], float32.",
            )
        if self._network is None:
            self._network = self.artifact.model().to(self.device)
        with torch.inference_mode():
            finest = self._network(torch.from_numpy(np.ascontiguousarray(images, dtype=np.float32)).to(self.device)).finest
        maps: np.ndarray = finest.cpu().numpy()
        return maps

    def _scan(self, path: str) -> Made:
        if self._models is None:
            self._models = put_to_work([self.artifact], ["the model"], self.device)
        places = _places(path)
        channels = self.artifact.meta.plan.space.channels
        if len(places) != len(channels):
            raise DataError(
                f"{len(places)} paths are given, and the model takes {len(channels)}: {', '.join(channels)}.",
                where="model_input",
                remedy="Join the paths of the channels by ';', in this order.",
            )
        files = {
            name: sorted(each for each in place.iterdir() if each.is_file()) if place.is_dir() else [place]
            for name, place in zip(channels, places, strict=True)
        }
        for place, own in zip(places, files.values(), strict=True):
            if not own:
                raise DataError("The folder holds no file.", where=place.name, remedy="Give the folder of a DICOM series.")
        given = self._models.take(
            lambda space, brain, look: prepare_files(files, space, brain=brain, change=look),
            _modality(next(iter(files.values()))),
            places[0].name,
            hint="",
        )
        return self._models.apply(given, places[0].name)

    def _row(self, asked: dict[str, Any], inputs: Set[Path]) -> dict[str, Any]:
        """The numbers of one scan, or why there are none; its main layer is written if that is asked for.

        inputs: of all rows, in whose place nothing is written.
        """
        output = asked.get("output")
        try:
            if isinstance(output, str) and output and Path(output).resolve() in inputs:
                raise DataError("The result would take the place of a scan.", where=output, remedy="Give another output.")
            made = self._scan(str(asked["path"]))
            if isinstance(output, str) and output:
                layer = made.layers[0]
                write_native(layer.array, made.prepared.native, Path(output), labels=layer.labels is not None)
        except MedaeError as error:
            return {**asked, "error": str(error)}
        rows: dict[str, Any] = dict(asked)
        for key, value in made.said.items():
            rows |= {f"{key}.{name}": each for name, each in value.items()} if isinstance(value, dict) else {key: value}
        return {**rows, "findings": len(made.said.get("findings", ())), "remarks": " ".join(made.remarks)}


def _places(path: str) -> list[Path]:
    """Of each channel."""
    return [Path(part).expanduser() for part in path.split(";")]


def _modality(files: Sequence[Path]) -> Modality:
    """As the header of DICOM says; other files do not say."""
    return modality_of(read_header(files[0])) if files and is_dicom(files[0]) else "unknown"


mlflow.models.set_model(ScanModel())
