"""The code that MLflow keeps with a logged model and runs to load it ("models from code"): no pickle. Needs medae installed.

``predict`` takes a float32 array ``[B, C, *S]``: images on the plan's grid, normalised by its intensity scheme, channels in
its order. It returns the network's finest map ``[B, K, *S]`` float32: logits of a segmenter, intensities of an autoencoder.
Files, whole volumes and the way back to a scan's own space are the work of ``medae predict``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import torch
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from medae.artifact import load_artifact
from medae.models.networks import Network


class NetworkModel(PythonModel):
    """A medae network behind MLflow's interface."""

    network: Network

    def load_context(self, context: PythonModelContext) -> None:
        """Open the artifact that lies beside this code, on the GPU if there is one."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.network = load_artifact(Path(context.artifacts["config"]).parent).model().to(device)

    def predict(
        self, context: PythonModelContext, model_input: np.ndarray, params: dict[str, Any] | None = None
    ) -> np.ndarray:
        """The finest map of a batch, ``[B, C, *S]`` to ``[B, K, *S]``."""
        device = next(self.network.parameters()).device
        image = torch.from_numpy(np.ascontiguousarray(model_input, dtype=np.float32)).to(device)
        with torch.inference_mode():
            finest: np.ndarray = self.network(image).finest.cpu().numpy()
        return finest


mlflow.models.set_model(NetworkModel())
