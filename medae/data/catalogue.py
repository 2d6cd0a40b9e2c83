"""Public data sets that are known by name: the ten tasks of the Medical Segmentation Decathlon."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from medae.errors import ConfigError


@dataclass(frozen=True)
class PublicSet:
    """A data set that ``medae data get NAME`` fetches.

    name: also that of its folder. task: its key in MONAI's tables. modality: ``x4`` is four channels in one 4D file. scans,
    labelled: in all, and those with a label map, in the archive (a few fewer than in Simpson et al. 2019, arXiv:1902.09063).
    size: of the archive, about.
    """

    name: str
    task: str
    what: str
    modality: str
    scans: int
    labelled: int
    size: str
    licence: str = "CC BY-SA 4.0"
    licence_url: str = "https://creativecommons.org/licenses/by-sa/4.0/"
    home: str = "http://medicaldecathlon.com"
    cite: str = "Antonelli et al. 2022, https://doi.org/10.1038/s41467-022-30695-9"

    def archive(self) -> tuple[str, str]:
        """Address and MD5 of the archive, from MONAI's own tables. Imports MONAI, which takes seconds."""
        from monai.apps.datasets import DecathlonDataset

        return DecathlonDataset.resource[self.task], DecathlonDataset.md5[self.task]


KNOWN = {
    known.name: known
    for known in (
        PublicSet("brain-tumour", "Task01_BrainTumour", "glioma, 3 parts", "MR x4", 750, 484, "7.6 GB"),
        PublicSet("heart", "Task02_Heart", "left atrium", "MR", 30, 20, "460 MB"),
        PublicSet("liver", "Task03_Liver", "liver, tumours", "CT", 201, 131, "29 GB"),
        PublicSet("hippocampus", "Task04_Hippocampus", "hippocampus, 2 parts", "MR", 390, 260, "28 MB"),
        PublicSet("prostate", "Task05_Prostate", "prostate, 2 zones", "MR x2", 48, 32, "240 MB"),
        PublicSet("lung", "Task06_Lung", "lung tumours", "CT", 95, 63, "9.2 GB"),
        PublicSet("pancreas", "Task07_Pancreas", "pancreas, tumours", "CT", 420, 281, "12 GB"),
        PublicSet("hepatic-vessel", "Task08_HepaticVessel", "liver vessels, tumours", "CT", 443, 303, "9.3 GB"),
        PublicSet("spleen", "Task09_Spleen", "spleen", "CT", 61, 41, "1.6 GB"),
        PublicSet("colon", "Task10_Colon", "colon cancer", "CT", 190, 126, "6.2 GB"),
    )
}


def find_known(wanted: str) -> PublicSet:
    """The data set that is called ``hippocampus``, ``Task04_Hippocampus`` or ``Task04``, in any case.

    Raises ConfigError, which names those that are known.
    """
    by_name = {_plain(name): known for name, known in KNOWN.items()}
    for known in KNOWN.values():
        by_name |= {_plain(known.task): known, _plain(known.task.partition("_")[0]): known}
    if found := by_name.get(_plain(wanted)):
        return found
    close = difflib.get_close_matches(_plain(wanted), by_name, n=1)
    guess = f"Did you mean '{by_name[close[0]].name}'? " if close else ""
    raise ConfigError(
        f"No public data set is known as '{wanted}'.",
        remedy=f"{guess}Known are {', '.join(KNOWN)}; any other needs its address, which begins with https://.",
    )


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
