"""The contrast of a series, as far as its header tells: what becomes the name of its channel.

The words of SeriesDescription and ProtocolName decide first, since people put there what they mean; then the sequence's
numbers. A series that neither tells is ``MR``.
"""

from __future__ import annotations

import re

from medae.formats.dicom.headers import Header
from medae.formats.dicom.kinds import modality_of


def _word(*alternatives: str) -> re.Pattern[str]:
    """Words that no letter precedes or follows."""
    return re.compile(rf"(?<![a-z])(?:{'|'.join(alternatives)})(?![a-z])")


RULES: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("ADC", _word("e?adc", r"apparent.?diffusion.*", "dadc")),
    ("FA", _word("fa", "fractional.?aniso.*", "colfa")),
    ("CBV", _word("r?cbv", "relcbv")),
    ("CBF", _word("r?cbf", "relcbf")),
    ("MTT", _word("mtt", "relmtt")),
    ("TTP", _word("ttp", "tmax")),
    (
        "DWI",
        _word("dwi?", "dti", "diff(usion)?", "trace(w)?", "tracew", "ep2d_?diff.*", "resolve", "b ?= ?\\d+", "b\\d{3,4}"),
    ),
    ("SWI", _word("swi", "swan", "swip", "venobold", "suscept.*")),
    ("perfusion", _word("perf(usion)?", "dsc", "dce", "asl", "pcasl", "pasl")),
    ("BOLD", _word("bold", "fmri", "rest", "resting.*")),
    ("MRA", _word("tof", "mra", "angio.*", "mrv", "ce.?mra")),
    ("T2star", re.compile(r"t2 ?(\*|star)|t2 fl2d|(?<![a-z])(gre|ffe)(?![a-z]).*h(a?)emo")),
    ("T1", re.compile(r"t1.*flair|flair.*t1")),
    ("FLAIR", re.compile(r"flair|dark.?fl|(?<![a-z])tirm.*dark")),
    ("STIR", _word("stir")),
    ("PD", _word("pdw?(fs|spair)?", "proton.?dens.*", "dp")),
    ("T2", re.compile(r"(?<![a-z0-9])t2|[^a-z]t2|(?<![a-z])(haste|ssfse|frfse)(?![a-z])|^ax.?t2|[a-z]t2(?![0-9])")),
    ("T1", re.compile(r"t1|mp.?rage|mp2rage|spgr|bravo|(?<![a-z])(vibe|lava|thrive|tfl|ir.?fse)")),
)
"""Contrast and words, the first that fits; texts are in lower case. What is special comes before what is general."""

AFTER = re.compile(
    r"\+ ?c(?![a-z])|(?<![a-z])c ?\+|post|t1w?(c|ce|gd)(?![a-z])|(?<![a-z])with.?contrast"
    r"|(?<![a-z])(gd|gad|gado[a-z]*|ce|km|contrast|enhanced)(?![a-z])"
)
BEFORE = re.compile(
    r"(?<![a-z])(pre|non|nativ[a-z]*|without|unenhanced)|(?<![a-z])w.?o(?![a-z])|post.?(op|proc)|no.?contrast"
)

CHANGED_BY_AGENT = {"CT": "CTce", "T1": "T1ce"}
"""A contrast agent makes another channel of these; FLAIR and T2 keep their names."""


def contrast_of(header: Header) -> str:
    """CT, CTce, T1, T1ce, T2, FLAIR, PD, DWI and so on; ``MR`` where the header does not tell."""
    described = header.description.lower()
    if modality_of(header) == "CT":
        found = "CT"
    else:
        found = _by_words(described) or _by_words(header.protocol.lower()) or _by_numbers(header) or "MR"
    return CHANGED_BY_AGENT[found] if found in CHANGED_BY_AGENT and _has_agent(header, described) else found


def _by_words(text: str) -> str | None:
    return next((name for name, pattern in RULES if pattern.search(text.replace("_", " "))), None)


def _has_agent(header: Header, described: str) -> bool:
    """Words before the header's ContrastBolusAgent, which is often left in place for the scans before the injection."""
    described = described.replace("_", " ")
    if BEFORE.search(described):
        return False
    return bool(AFTER.search(described)) or header.has_contrast


def _by_numbers(header: Header) -> str | None:
    """Times in ms: those of the usual sequences at 1.5 and 3 T."""
    echo, repetition = header.acquisition.get("EchoTime"), header.acquisition.get("RepetitionTime")
    inversion = header.acquisition.get("InversionTime", 0.0)
    if echo is None or repetition is None or "EP" in header.sequence:
        return None
    if inversion > 0:
        return _inversion_recovery(inversion, echo, "GR" in header.sequence)
    return _spin_echo(echo, repetition) if {"SE", "RM"} & set(header.sequence) else None


def _inversion_recovery(inversion: float, echo: float, is_gradient_echo: bool) -> str | None:
    if inversion > 1500 and echo > 60:
        return "FLAIR"
    return "T1" if is_gradient_echo and 350 < inversion < 1400 and echo < 10 else None


def _spin_echo(echo: float, repetition: float) -> str | None:
    if repetition < 1000 and echo < 30:
        return "T1"
    if repetition <= 1800:
        return None
    if echo > 60:
        return "T2"
    return "PD" if echo < 45 else None
