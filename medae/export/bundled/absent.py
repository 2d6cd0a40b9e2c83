"""What a bundle has in the place of modules of medae that it does without: any name is there, and none can be called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from medae.errors import DataError


def __getattr__(name: str) -> Callable[..., Any]:
    """A function that raises DataError."""
    if name.startswith("__"):
        raise AttributeError(name)

    def refuse(*_arguments: Any, **_named: Any) -> Any:
        raise DataError(
            f"This needs '{name}', which a bundle does without.",
            remedy="Give images and masks as NIfTI (.nii or .nii.gz), or use medae itself.",
        )

    return refuse
