"""The model card: what a person should know before they use a stored model.

In the manner of the cards of MONAI's model zoo and of Hugging Face: a YAML head, then intended use, limits, training data,
preprocessing, labels, results, calibration, use.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medae.config import flatten

WHAT = {
    "autoencoder": "An autoencoder pretrained on scans without labels. Its encoder is meant to be moved into a segmenter.",
    "segmenter": "A network that segments scans.",
    "detector": "An autoencoder of normal anatomy that scores new scans by its reconstruction error.",
}
COMMAND = {
    "autoencoder": "medae finetune CONFIG --encoder MODEL",
    "segmenter": "medae predict MODEL INPUT OUTPUT",
    "detector": "medae predict MODEL INPUT OUTPUT",
}
LIMITS = {
    "autoencoder": "It reproduces images; it neither segments nor finds anything.",
    "segmenter": "Expect it to fail, without notice, on other body regions, contrasts, scanners and pathologies than it was "
    "trained on. The numbers below hold for the data named below.",
    "detector": "A high error means 'unlike the training scans', not 'diseased'. A threshold holds for the scanners and "
    "protocols it was calibrated on.",
}
PHANTOM = (
    "> **Trained on phantoms.** The training scans are synthetic: a template brain, deformed and recoloured. This model "
    "shows that the software works. Its numbers say nothing about patients.\n"
)


def model_card(meta: Mapping[str, Any], parameters: int, domain: Mapping[str, str] | None = None) -> str:
    """The card of a model as Markdown.

    meta: an ArtifactMeta as plain JSON types. parameters: how many the network has. domain: what the training scans were
    like, in words.
    """
    kind, network, plan = meta["kind"], meta["network"], meta["plan"]
    channels = ", ".join(plan["space"]["channels"])
    title = f"{kind.capitalize()} ({network['kind']})" + (f" of {meta['target']}" if meta["target"] else "")
    parts = [
        f"---\nlibrary_name: medae\ntags: [medical-imaging, {kind}, {network['kind']}]\n---\n",
        f"# {title}\n",
        WHAT[kind] + "\n",
        PHANTOM if _phantom(meta["provenance"]) else "",
        "## Intended use\n\nResearch only. It is not a medical device and must not be used for diagnosis or treatment.\n",
        f"## Limits\n\n{LIMITS[kind]}\n",
        "## Trained on\n\n" + (_table(meta["provenance"]) or "Not recorded.\n"),
        "## What the training scans were like\n\n" + _table(domain) if domain else "",
        f"## Input\n\nChannels, in this order: {channels}. Images are brought to this space first:\n",
        _table(plan["space"]),
        "## Network\n\n" + _table({"parameters": f"{parameters:,}", **network}),
        "## Labels\n\n" + _table({str(value): name for value, name in meta["labels"].items()}) if meta["labels"] else "",
        "## Results\n\n" + (_results(meta["metrics"]) or "Not recorded.\n"),
        "## Calibration\n\n" + _table(meta["calibration"]) if meta["calibration"] else "",
        f"## Use\n\n    {COMMAND[kind]}\n\nwhere MODEL is this folder, or its address in MLflow. In Python:\n",
        "    from pathlib import Path\n    from medae.artifact import load_artifact\n\n"
        '    model = load_artifact(Path("MODEL")).model()\n',
        "`weights.safetensors` holds the weights, `statistics.safetensors` (if there is one) what an anomaly map has\n"
        "learnt from normal scans, `medae.json` all else; nothing is pickled.\n",
    ]
    return "\n".join(part for part in parts if part)


def _phantom(value: Any) -> bool:
    """Whether data of the phantom source is named anywhere."""
    if isinstance(value, Mapping):
        named = value.get("format") == "phantom" or bool(value.get("phantom"))
        return named or any(_phantom(item) for item in value.values())
    return isinstance(value, list) and any(_phantom(item) for item in value)


def figures_of(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Each figure by name, as text with its interval in brackets where there is one (``NAME_low``, ``NAME_high``)."""
    figures = flatten(metrics)
    bounds = {name: (figures.get(f"{name}_low"), figures.get(f"{name}_high")) for name in figures}
    known = {name: pair for name, pair in bounds.items() if None not in pair}
    inside = {f"{name}_{end}" for name in known for end in ("low", "high")}
    return {
        name: f"{_cell(value)} [{_cell(known[name][0])}, {_cell(known[name][1])}]" if name in known else value
        for name, value in figures.items()
        if name not in inside
    }


def _results(metrics: Mapping[str, Any]) -> str:
    rows = figures_of(metrics)
    bounded = any(isinstance(value, str) and value.endswith("]") for value in rows.values())
    return _table(rows) + ("\nIn brackets: 95 % intervals over the subjects that were scored.\n" if bounded else "")


def _table(values: Mapping[str, Any]) -> str:
    rows = [f"| {_cell(key)} | {_cell(value)} |" for key, value in flatten(values).items()]
    return "\n".join(["| | |", "|---|---|", *rows]) + "\n" if rows else ""


def _cell(value: Any) -> str:
    if isinstance(value, float):
        value = f"{value:.0f}" if 9999.5 <= abs(value) < 1e5 else f"{value:.4g}"
    elif value is None:
        value = "-"
    elif isinstance(value, list):
        value = ", ".join(map(str, value))
    return str(value).replace("|", "\\|").replace("\n", " ")
