"""Colours that do without matplotlib."""

LABELS = ("#22d3ee", "#fbbf24", "#f472b6", "#a3e635", "#c084fc", "#fb923c", "#60a5fa", "#f87171")
"""Colours of label values on a grey image."""


def label_colour(value: int) -> str:
    """The colour of a label value from 1 on, ``#rrggbb``; they repeat after eight."""
    return LABELS[(value - 1) % len(LABELS)]
