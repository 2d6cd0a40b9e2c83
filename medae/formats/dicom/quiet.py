"""pydicom's own messages are switched off: they quote values and file names, which can be those of patients.

What is wrong with a file is said by medae instead. Imported by whatever calls pydicom.
"""

from __future__ import annotations

import logging
import warnings

import pydicom

__all__ = ["pydicom"]

logging.getLogger("pydicom").setLevel(logging.CRITICAL)
warnings.filterwarnings("ignore", module=r"pydicom\b")
