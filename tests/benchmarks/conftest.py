"""The programs of the benchmarks are not a package: they are found beside each other."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
