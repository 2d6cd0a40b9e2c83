"""Small untrained models as they are stored, for tests of what is made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from medae.artifact import Artifact, ArtifactMeta, save_artifact
from medae.models.networks import build_network

LABELS = {0: "background", 1: "left", 2: "right"}


def stored_model(
    folder: Path,
    network: str = "unet",
    dims: int = 3,
    *,
    space: dict[str, Any] | None = None,
    encoder: dict[str, Any] | None = None,
    choice: dict[str, Any] | None = None,
    **meta: Any,
) -> Artifact:
    """A model of two levels, window of 8 voxels. encoder, choice: keys of the network's; space: of the plan's.

    network: a kind, or ``ensemble`` of three U-Nets, ``autoencoder_ensemble`` of as many.
    meta: further keys of the artifact, such as provenance.
    """
    levels: dict[str, Any] = {"widths": [4, 4], "strides": [[1] * dims, [2] * dims], "kernels": [[3] * dims] * 2}
    levels |= {key: value for key, value in (encoder or {}).items() if key in (*levels, "stem", "downsampling")}
    if network == "segnet":
        levels["downsampling"] = "maxpool"
    plan: dict[str, Any] = {
        "space": {"spatial_dims": dims, "slice_axis": 2 if dims == 2 else None, "foreground": "all", **(space or {})},
        "network": levels,
        "sampling": {"patch": [8] * dims},
    }
    slices, channels = plan["space"].get("slices", 1), len(plan["space"].get("channels", ["image"]))
    shape = {"spatial_dims": dims, "in_channels": slices * channels, "slices": slices}
    segments = network not in ("autoencoder", "vae", "autoencoder_ensemble")
    config: dict[str, Any] = {"kind": network, "encoder": {**levels, **(encoder or {}), **shape}, **(choice or {})}
    config |= {"classes": len(LABELS)} if segments else {}
    if network in ("ensemble", "autoencoder_ensemble"):
        member = "unet" if network == "ensemble" else "autoencoder"
        config = {"kind": network, "member": {**config, "kind": member}, "members": 3}
    about = {"target": "side", "labels": LABELS} if segments else {}
    kind = "segmenter" if segments else "autoencoder"
    stored = ArtifactMeta.model_validate({"kind": kind, "network": config, "plan": plan, **about, **meta})
    torch.manual_seed(0)
    model = build_network(stored.network)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))  # biases too, or labels would be nearly even
    return save_artifact(folder, model, stored)
