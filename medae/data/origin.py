"""Where a fetched data set came from: one small file that travels with it.

``medae-source.json`` lies in the data set's folder, so that its licence and source stay with it when it is moved or copied.
It disturbs nothing: the Decathlon and nnU-Net read what ``dataset.json`` and the image folders name. In a BIDS data set,
where validators refuse unknown files, it is in ``sourcedata/``, which the standard leaves free.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medae.data.files import read_json
from medae.errors import DataError

RECORD = "medae-source.json"
PLACES = (RECORD, f"sourcedata/{RECORD}")
DESCRIPTIONS = ("dataset.json", "dataset_description.json")  # of the Decathlon and nnU-Net, of BIDS
LICENCE_KEYS = ("licence", "license", "License")


def write_record(folder: Path, record: Mapping[str, Any], layout: str | None) -> None:
    """Write where the data set in ``folder`` came from. layout: as ``detect_format`` names it."""
    path = folder / PLACES[layout == "bids"]
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def read_record(folder: Path) -> dict[str, Any] | None:
    """The record of the data set in ``folder``, None if medae did not fetch it."""
    found = next((path for place in PLACES if (path := folder / place).is_file()), None)
    return None if found is None else read_json(found, folder)


def stated_licence(folder: Path) -> str | None:
    """The licence that a data set states itself, in one line; None if it states none."""
    for name in DESCRIPTIONS:
        try:
            content = read_json(folder / name, folder)
        except DataError:  # there is none, or it cannot be read: checking the data set will say so
            continue
        for key in LICENCE_KEYS:
            if isinstance(content.get(key), str) and (text := " ".join(content[key].split())):
                return text[:200]
    return None
