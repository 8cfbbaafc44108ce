"""The surfaces of these tests are those of a tool: the folder of the tools goes on the path."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
