"""Several processes that write down what they do with one run."""

import json
import subprocess
import sys

from pgd_lightning.runs import Run

WRITER = """
import sys
from pgd_lightning.runs import Run
run = Run.at(sys.argv[1], "agent", "maze2d-umaze", "bc", {"a": 1}, 0)
for k in range(40):
    run.update(**{f"{sys.argv[2]}{k}": k})
"""


def test_no_entry_of_a_run_is_lost_when_two_processes_write_it(tmp_path):
    names = ("one", "two", "three")
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), name]) for name in names]
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0, 0]
    (path,) = tmp_path.rglob("run.json")
    record = json.loads(path.read_text())
    assert {f"{name}{k}" for name in names for k in range(40)} <= record.keys()
    assert record["state"] == "new"
    assert not list(tmp_path.rglob("*.part"))


def test_a_second_process_does_not_make_a_running_run_new(tmp_path):
    run = Run.at(str(tmp_path), "agent", "maze2d-umaze", "bc", {"a": 1}, 0)
    run.update(state="running")
    assert Run.at(str(tmp_path), "agent", "maze2d-umaze", "bc", {"a": 1}, 0).record["state"] == "running"
