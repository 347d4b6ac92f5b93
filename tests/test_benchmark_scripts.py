"""The benchmark of attribution runs; a model this small says nothing about its figures."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent / "benchmarks" / "attribution.py"


def test_attribution_reports_every_goal_with_what_was_measured(tmp_path: Path):
    out = tmp_path / "RESULTS.md"
    command = [sys.executable, str(SCRIPT), "--tiny", "--repeats", "1", "--out", str(out)]

    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)

    assert done.returncode == 0, done.stderr
    assert out.read_text() in done.stdout
    lines = [line.strip("| ").split(" | ") for line in out.read_text().splitlines()]
    rows = [cells for cells in lines if cells[-1] in ("yes", "**no**")]
    assert [goal for _, goal, _, _ in rows] == ["1.10", "1.30", "1.05", "0.60", "1.03"]
    for _, goal, measured, met in rows:
        assert float(measured.split()[0]) > 0
        assert (met == "yes") == (float(measured.split()[0]) <= float(goal)) or (
            measured.split()[0] == goal  # rounded
        )
