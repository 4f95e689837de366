"""Fixtures that any test may use."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "nvml_stub"))

pytest_plugins = ["stub"]
