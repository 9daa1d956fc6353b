"""``benchmarks/gpu.py`` writes its file after each part, whole, and outlives a part that fails or takes too long.

All of it on the CPU: ``python benchmarks/gpu.py --dry``.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def dry(out: Path, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--dry", "--out", str(out), *arguments]
    subprocess.run(command, capture_output=True, cwd=out.parent, timeout=300)
    return json.loads(out.read_text())


def test_parts_are_run_and_written(tmp_path):
    found = dry(tmp_path / "gpu.json", "--parts", "tests", "memory")
    assert found["dry"] and found["tests"]["state"] == found["memory"]["state"] == "done", found
    assert "tests/test_gpu.py: " in found["tests"]["said"]  # how many there are


def test_what_a_part_measured_before_its_time_was_up_is_kept(tmp_path):
    found = dry(tmp_path / "gpu.json", "--parts", "sampling", "memory", "--seconds", "6")
    assert found["sampling"]["state"] == "out of time" and found["memory"]["state"] == "no time left"
    assert list(tmp_path.iterdir()) == [tmp_path / "gpu.json"]
