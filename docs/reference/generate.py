"""Writes the pages of this folder that the code itself can tell: ``cli.md`` and ``configuration.md``.

Run it after a change of a command or of a configuration class: ``python docs/reference/generate.py``. A test compares.

The meaning of a key is taken from its class' docstring, which says ``key: what it means.``; what a docstring leaves out,
because the name tells it there, is in ``MEANINGS``.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from medae.anomaly.postprocessing import PostprocessingConfig
from medae.config import to_dict
from medae.data.sources import ConcreteSource
from medae.models.networks import NETWORKS
from medae.plan import NetworkPlan, Plan, SamplingPlan, SpacePlan
from medae.planning.rules import PlanHints
from medae.preprocessing.sampling import SamplerConfig
from medae.tracking.client import DEFAULT_URI
from pipelines import detect, finetune, pretrain
from pipelines.cli import app
from pipelines.networks import OF_THE_PLAN
from pipelines.plan import PlanChoice
from pipelines.run import Pipeline
from pipelines.stage import StageConfig
from pipelines.training import Drawing

HERE = Path(__file__).parent

MEANINGS = {
    "BIDSSource.format": "this layout",
    "FolderSource.format": "this layout",
    "MSDSource.format": "this layout",
    "NNUNetSource.format": "this layout",
    "PhantomSource.format": "this layout",
    "AutoSource.format": "the layout is recognised",
    "PhantomSource.seed": "of everything that is drawn",
    "PhantomSource.modality": "another modality than MR",
    "StageConfig.device": "where training and prediction run; `auto` is CUDA where there is one",
    "DataConfig.data": "the data set",
    "DataConfig.split": "who trains, who validates, who is tested",
    "SplitConfig.seed": "makes the salt where none is given",
    "Autoencoding.plan": "hints for the plan, or a plan file",
    "Autoencoding.network": "the network; its encoder's shape is the plan's",
    "Autoencoding.objective": "what is learnt",
    "Autoencoding.augmentation": "what happens to patches",
    "Autoencoding.drawing": "where patches are taken",
    "Autoencoding.fit": "the training",
    "finetune.transfer": "what is taken from the encoder, and how much has to fit",
    "finetune.plan": "hints for the plan, or a plan file; with an encoder its space and network are kept",
    "finetune.network": "the segmenter: `unet`, `segnet` or `fcn`",
    "finetune.objective": "weights of Dice and cross-entropy",
    "finetune.augmentation": "what happens to patches",
    "finetune.drawing": "where patches are taken",
    "finetune.fit": "the training of each arm",
    "detect.scoring": "how a residual becomes a map, a mask and a score",
    "PlanHints.spatial_dims": "2 or 3",
    "PlanHints.intensity": "how intensities are normalised",
    "PlanHints.foreground": "the voxels that normalisation, sampling and scoring count",
    "PlanHints.stem": "the encoder's first layer",
    "PlanHints.downsampling": "how the encoder gets coarser",
    "PlanHints.levels": "of the encoder",
    "PlanHints.batch": "samples a step",
    "PlanChoice.file": "a plan, as `medae plan` writes it; it decides alone",
    "SpacePlan.spatial_dims": "2 or 3",
    "SpacePlan.slice_axis": "the axis across the slices, for 2 dimensions: 0 right, 1 anterior, 2 superior",
    "SpacePlan.intensity": "how intensities are normalised",
    "NetworkPlan.stem": "a convolution at full resolution, or the voxels of a cell as channels",
    "NetworkPlan.widths": "channels a level",
    "NetworkPlan.strides": "from the level above to this one, along each axis; the first is the stem's",
    "NetworkPlan.kernels": "size of the convolutions along each axis",
    "NetworkPlan.downsampling": "strided convolutions, or max pooling (SegNet and `max_unpool` need it)",
    "SamplingPlan.patch": "voxels of the plan's spacing along the spatial dimensions",
    "SamplingPlan.batch": "samples a step",
    "CTWindow.lower": "HU",
    "CTWindow.upper": "HU",
    "CTWindow.mean": "HU, becomes 0",
    "CTWindow.std": "HU, becomes 1",
    "ZScore.lower_percentile": "values below are clipped",
    "ZScore.upper_percentile": "values above are clipped",
    "RobustZ.clip": "largest magnitude that is kept",
    "FitConfig.steps": "optimisation steps in all",
    "FitConfig.optimiser": "AdamW, or SGD with Nesterov momentum",
    "FitConfig.schedule": "of the learning rate",
    "FitConfig.mode": "whether a high or a low value of `monitor` is better",
    "FitConfig.seed": "of the initial weights and of every draw",
    "FitConfig.channels_last": "memory layout; speed only",
    "FitConfig.compile": "`torch.compile`",
    "ScheduleConfig.kind": "shape of the fall after the warm-up",
    "MaskedConfig.distance": "absolute or squared difference",
    "MaskedConfig.region": "hidden voxels that count: all, or those of the foreground",
    "Similarity.region": "voxels that l1 and l2 count",
    "DenoisingConfig.region": "voxels that l1 and l2 count",
    "DenoisingConfig.l1": "weight of the mean absolute difference",
    "DenoisingConfig.l2": "weight of the mean squared difference",
    "VariationalConfig.kl": "weight of the divergence from the prior",
    "SegmentationConfig.target": "left out: the stage's `target` is taken",
    "SegmentationConfig.dice": "weight of the Dice loss",
    "SegmentationConfig.cross_entropy": "weight of the cross-entropy",
    "Pipeline.name": "of the parent run, its folder, its stages and their registered models",
    "Pipeline.experiment": "in MLflow",
    "Pipeline.shared": "keys of every stage, over those of its `config`",
    "Pipeline.stages": "name → keys: `stage` (the kind), `config` (a file beside this one, or a shipped name), and what differs",
    "EncoderConfig.block": "plain or residual",
    "EncoderConfig.activation": "after each norm",
    "SpatialBottleneck.channels": "of the map; the encoder's own if null",
    "DenseBottleneck.size": "of the vector",
    "DenseBottleneck.channels": "of the 1x1 convolution before it",
    "AutoencoderConfig.encoder": "blocks of the encoder",
    "AutoencoderConfig.decoder": "way up and skips",
    "AutoencoderConfig.bottleneck": "a map or a vector",
    "VAEConfig.encoder": "blocks of the encoder",
    "VAEConfig.decoder": "way up and skips",
    "UNetConfig.encoder": "blocks of the encoder",
    "UNetConfig.decoder": "way up and skips; `concat` unless stated",
    "SegNetConfig.encoder": "blocks of the encoder; its plan needs `downsampling: maxpool`",
    "SegNetConfig.decoder": "convolution blocks; unpools by the encoder's indices",
    "FCNConfig.encoder": "blocks of the encoder",
}
"""By ``Class.field``; a stage's own class goes by the stage's name."""

FILLED = {
    **{f"EncoderConfig.{name}" for name in OF_THE_PLAN} and {f"EncoderConfig.{name}": "plan" for name in OF_THE_PLAN},
    "UNetConfig.classes": "labels",
    "SegNetConfig.classes": "labels",
    "FCNConfig.classes": "labels",
}
"""Keys of a network that a configuration may not or need not state, because the plan or the labels decide them."""
