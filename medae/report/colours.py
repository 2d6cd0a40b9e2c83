"""Colours that do without matplotlib."""

DARK, ON_DARK = "#0b0e13", "#e9eef4"
"""Behind images, and of letters on them."""

LABELS = (
    *("#22d3ee", "#fbbf24", "#f472b6", "#a3e635", "#c084fc", "#fb923c", "#60a5fa", "#f87171"),
    *("#34d399", "#e879f9", "#fde68a", "#818cf8", "#bef264", "#fda4af", "#0ea5e9", "#d97706"),
    *("#5eead4", "#a855f7", "#65a30d", "#be185d", "#93c5fd", "#ef4444", "#ddd6fe", "#b45309"),
)
"""Colours of label values on a grey image; the first eight are the furthest apart."""


def label_colour(value: int) -> str:
    """The colour of a label value from 1 on, ``#rrggbb``; they repeat after 24."""
    return LABELS[(value - 1) % len(LABELS)]
