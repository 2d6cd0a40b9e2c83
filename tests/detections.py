"""A detection of ten phantoms that takes seconds, in overrides of ``configs/detect/phantoms.yaml``."""

from __future__ import annotations

TINY = (
    "data={format: phantom, root: runs/smoke-phantoms, subjects: 10, lesions: 0.5, spacing: 6.0}",
    "split.validation=2",
    "plan.widths=[4, 8]",
    "plan.patch=[32, 40]",
    "plan.batch=8",
)
"""The phantoms are those of the smoke run."""
