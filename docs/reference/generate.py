"""Writes what the code itself can tell into this folder's ``cli.md`` and ``configuration.md``, below a mark.

Run it after a change of a command or of a configuration: ``python docs/reference/generate.py``. A test compares.

The meaning of a key comes from the docstring of its class, which says ``key: what it means.``; what a docstring leaves out
is in ``meanings.yaml``, by ``Class.key``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from inspect import cleandoc
from pathlib import Path
from typing import Any, Union, get_args

import yaml
from commands import commands_page
from pydantic import BaseModel
from words import TAGS, default_in_words, is_tag, reference, tag, type_in_words

from medae.config import Config
from medae.models.networks import NETWORKS
from medae.objectives.joint import JointConfig
from medae.objectives.registry import SEGMENTERS
from medae.plan import Plan
from medae.preprocessing.sampling import SamplerConfig
from pipelines import detect, finetune, pretrain
from pipelines.curve_config import Curve
from pipelines.networks import OF_THE_PLAN
from pipelines.pretrain import Autoencoding
from pipelines.run import Pipeline
from pipelines.stage import StageConfig
from pipelines.training import Drawing

HERE = Path(__file__).parent
MEANINGS: dict[str, str] = yaml.safe_load((HERE / "meanings.yaml").read_text(encoding="utf-8"))
FILLED_IN = {
    **{(network.__name__, "encoder"): "the plan's shape" for network in NETWORKS},
    ("DenseBottleneck", "input_size"): "the plan's patch",
}
"""What stands for a key that a configuration leaves out, where the class itself has no default."""

MARK = "<!-- Written by docs/reference/generate.py from here on. -->\n"

DECIDED = {"EncoderConfig": OF_THE_PLAN, "UNetConfig": ("classes",), "SegNetConfig": ("classes",), "FCNConfig": ("classes",)}
"""Keys that no configuration states: the plan or the labels decide them."""

Models = tuple[type[BaseModel], ...]
DOCUMENTED_BY: dict[type[BaseModel], Models] = {Drawing: (SamplerConfig,)}
PLAN_FILE = """## Keys of a plan file

`medae plan` writes one, and every run keeps its own in `plan.yaml`. Spatial values are in the order right, anterior,
superior; with 2 spatial dimensions, of the two axes that are left when the slice axis is taken out.
"""


@dataclass
class Page:
    """Sections in the order in which their keys are met. places: heading of each model that has a section.

    used: meanings that were taken from the file. unknown: keys without one.
    """

    sections: list[str] = field(default_factory=list)
    places: dict[type[BaseModel], str] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    unknown: list[str] = field(default_factory=list)


def configuration_page() -> str:
    """The page of all keys. Raises SystemExit for keys without a meaning and for meanings without a key."""
    page = Page()
    common = set(StageConfig.model_fields)
    _section(page, "Keys of every stage", StageConfig, "", set())
    _section(page, "Keys of a pretraining", pretrain.Config, "", common)
    _section(page, "Keys of a fine-tuning", finetune.Config, "", common)
    _section(page, "Keys of a detection", detect.Config, "", common)
    _section(page, "Keys of a pipeline", Pipeline, "", set())
    _section(page, "Keys of a label curve", Curve, "", set())
    page.sections.append(PLAN_FILE)
    for name in ("space", "network", "sampling"):
        _nested(page, Plan.model_fields[name].annotation, name, " of a plan file")
    unused = sorted(set(MEANINGS) - page.used)
    if page.unknown or unused:
        raise SystemExit(f"Keys without a meaning: {page.unknown}. Meanings without a key: {unused}.")
    return "\n".join(page.sections)


def _section(page: Page, title: str, model: type[BaseModel], path: str, without: set[str], level: int = 2) -> None:
    """A heading, a table of the model's keys, then the sections of what they hold."""
    intro, meanings = documented(model)
    rows = []
    later: list[tuple[str, Any]] = []
    for name, info in model.model_fields.items():
        if name in without or name in DECIDED.get(model.__name__, ()) or (name in TAGS and is_tag(info)):
            continue
        meaning = info.description or meanings.get(name) or _supplement(page, model, name)
        annotation = _narrowed(model, name, info.annotation)
        below = f"{path}.{name}" if path else name
        default = FILLED_IN.get((model.__name__, name)) or default_in_words(info)
        rows.append(f"| `{name}` | {type_in_words(annotation, info)} | {default} | {_cell(meaning)} |")
        later.append((below, annotation))
    text = [f"{'#' * level} {title}", ""]
    text += [intro, ""] if intro and path else []
    text += ["Beside the keys of every stage:", ""] if without else []
    text += ["| key | type | default | meaning |", "|---|---|---|---|", *rows, ""] if rows else ["No keys of its own.", ""]
    place = len(page.sections)
    page.sections.append("")
    for below, annotation in later:
        _nested(page, annotation, below)
    page.sections[place] = _linked(page, "\n".join(text))


def _nested(page: Page, annotation: Any, path: str, note: str = "") -> None:
    """The sections of the classes inside a type, those that have none yet."""
    for model in nested_models(annotation):
        if model not in page.places:
            mark = tag(model)
            page.places[model] = f"`{path}`{note}" + (f", {mark}" if mark else "")
            _section(page, page.places[model], model, path, set(), level=3)


def documented(model: type[BaseModel]) -> tuple[str, dict[str, str]]:
    """What a class' docstring and those of its bases say: the text before the first key, and each key's meaning."""
    intro, found = "", {}
    for cls in [*reversed(model.__mro__), *DOCUMENTED_BY.get(model, ())]:
        if not (isinstance(cls, type) and issubclass(cls, BaseModel)) or cls in (BaseModel, Config) or not cls.__doc__:
            continue
        names = "|".join(sorted(cls.model_fields, key=len, reverse=True))
        text = " ".join(cleandoc(cls.__doc__).split()).replace("``", "`")
        parts = re.split(rf"(?:^|(?<=[.;)] ))((?:{names})(?:(?:, | and )(?:{names}))*): ", text)
        intro = parts[0].strip()
        for keys, meaning in zip(parts[1::2], parts[2::2], strict=True):
            for key in re.split(r", | and ", keys):
                found[key] = meaning.strip()
    return intro, found


def _supplement(page: Page, model: type[BaseModel], name: str) -> str:
    """The meaning in ``meanings.yaml``: that of the class or of its bases, else that of the key wherever it is."""
    owners = [c.__module__.rpartition(".")[2] if c.__name__ == "Config" else c.__name__ for c in model.__mro__]
    for key in [*(f"{owner}.{name}" for owner in owners), name]:
        if key in MEANINGS:
            page.used.add(key)
            return MEANINGS[key]
    page.unknown.append(f"{model.__name__}.{name}")
    return ""


def nested_models(annotation: Any) -> Models:
    """The configuration classes inside a type, in order."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return (annotation,)
    return tuple(model for part in get_args(annotation) for model in nested_models(part))


def _narrowed(model: type[BaseModel], name: str, annotation: Any) -> Any:
    """The field's type, less what other checks refuse: a stage trains autoencoders or segmenters, never both."""
    choices: Models = tuple(NETWORKS) if name == "network" else nested_models(annotation)
    segments, kinds = issubclass(model, finetune.Config), (*SEGMENTERS, "segmentation")
    if model is JointConfig and name == "pretext":
        kinds = (*kinds, "variational")
    elif not issubclass(model, Autoencoding | finetune.Config) or name not in ("network", "objective"):
        return annotation
    return Union[tuple(choice for choice in choices if (choice.model_fields["kind"].default in kinds) == segments)]  # noqa: UP007


def _linked(page: Page, text: str) -> str:
    names = {reference(model): title for model, title in page.places.items()}

    def link(match: re.Match[str]) -> str:
        title = names[match[0]]
        return f"[{title.rpartition(', ')[2] if ', ' in title else title}](#{slug(title)})"

    return re.sub(r"\{\{[^}]+\}\}", link, text)


def slug(heading: str) -> str:
    """The anchor that GitHub and most other renderers give a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _cell(text: str) -> str:
    return re.sub(r"\bNone\b", "null", text.strip().rstrip(".").replace("|", "\\|"))


BODIES = {"cli.md": commands_page, "configuration.md": configuration_page}


def page(name: str) -> str:
    """A page as it should be: what is written by hand above the mark, what the code tells below."""
    text = (HERE / name).read_text(encoding="utf-8")
    return text.partition(MARK)[0] + MARK + "\n" + BODIES[name]()


if __name__ == "__main__":
    for file in BODIES:
        (HERE / file).write_text(page(file), encoding="utf-8")
