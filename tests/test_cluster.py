"""Job arrays, the doctor, the list of runs and sweeps: without SLURM (tests/slurm runs the real one)."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.commands import SMALL, pgd
from helpers.processes import UNDRAWING

from pgd_lightning.commands import doctor, slurm, sweep
from pgd_lightning.config.compose import compose_config
from pgd_lightning.errors import UserError
from pgd_lightning.runs.points import AgentOfPoint, Point
from pgd_lightning.runs.run import Run

# --- the file that sbatch gets ---


def written(monkeypatch, tmp_path: Path, *more: str) -> str:
    settings = ["env=maze2d-umaze", "agent=iql,td3_bc", "seed=0,1", f"runs_dir={tmp_path}", "launcher.submit=false"]
    assert pgd(monkeypatch, ["slurm", *settings, *more]) == 0
    (file,) = tmp_path.glob("sweep/*/array.sbatch")
    return file.read_text()


def test_sbatch_file_says_what_the_config_says(monkeypatch, tmp_path, capsys):
    text = written(monkeypatch, tmp_path, "launcher.time='02:00:00'", "launcher.gpus_per_node=0", "launcher.mem=8G",
                   "launcher.at_once=2", "launcher.setup=['module load cuda']")  # fmt: skip
    options = [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH")]
    assert {"--array=0,1,2,3%2", "--time=02:00:00", "--mem=8G", "--nodes=1", "--ntasks-per-node=1", "--signal=USR1@300",
            "--requeue", "--open-mode=append"} <= set(options)  # fmt: skip
    assert not [o for o in options if "gpus" in o or "partition" in o]
    assert "module load cuda" in text
    assert "[ $code -eq 75 ] || [ $code -eq 138 ] && scontrol requeue" in text
    assert '"${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"' in text
    assert "# Task 3: agent=td3_bc seed=1" in text
    assert f"--chdir={Path.cwd()}" in options
    points = sorted(tmp_path.glob("sweep/*/points/*"))
    assert [p.name for p in points] == ["0", "1", "2", "3"]
    assert points[3].read_text().split() == [
        "scale=laptop", "env=maze2d-umaze", "agent=td3_bc", "seed=1", f"runs_dir={tmp_path}"
    ]  # fmt: skip
    said = capsys.readouterr().out
    assert "4 points, 0 in the queue, 4 to submit" in said
    assert "each may take 120 minutes" in said
    assert "submit it with: sbatch" in said
    assert f"logs:   {points[0].parents[1]}/logs/<task>.log" in said
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)


def test_tasks_of_two_nodes_come_from_the_trainer(monkeypatch, tmp_path):
    text = written(monkeypatch, tmp_path, "compare=[]", "trainer=slurm", "trainer.devices=4", "trainer.num_nodes=2")
    for option in ("--nodes=2", "--ntasks-per-node=4", "--gpus-per-node=4"):
        assert f"#SBATCH {option}\n" in text


def test_jobs_run_a_snapshot_of_the_source(monkeypatch, tmp_path):
    written(monkeypatch, tmp_path, "compare=[]")
    (source,) = tmp_path.glob("sweep/*/source-*")
    code = "import pgd_lightning, sys; print(pgd_lightning.__file__); from pgd_lightning.__main__ import main; main()"
    alone = {"PYTHONPATH": str(source), "PATH": os.environ["PATH"], "HOME": os.environ["HOME"]}
    done = subprocess.run(
        [sys.executable, "-c", code, "train", "env=maze2d-umaze", "--cfg"], env=alone, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(source))
    assert "name: maze2d-umaze" in done.stdout


def test_without_sbatch_the_file_is_named(monkeypatch, tmp_path, capsys):
    real = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name: None if name in ("sbatch", "squeue") else real(name))
    assert pgd(monkeypatch, ["slurm", "env=maze2d-umaze", f"runs_dir={tmp_path}"]) == 1
    assert "There is no sbatch here: run 'sbatch " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("time", "found"),
    [("30", 1800), (30, 1800), ("02:30", 150), ("08:00:00", 28800), ("1-0", 86400), ("2-12:30", 217800), ("1-0:0:1", 86401), (0, 0)],
)  # fmt: skip
def test_time_limits_are_slurms(time, found):
    assert slurm.seconds(time) == found


@pytest.mark.parametrize(
    ("time", "sentence"),
    [("8h", "launcher.time=8h is no time"), ("'00:05:00'", "is not longer than launcher.lead=300")],
)
def test_time_limits_that_leave_no_time_are_refused(monkeypatch, tmp_path, capsys, time, sentence):
    settings = ["slurm", "env=maze2d-umaze", f"runs_dir={tmp_path}", f"launcher.time={time}", "launcher.submit=false"]
    assert pgd(monkeypatch, settings) == 1
    assert sentence in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_same_settings_in_other_words_are_the_same_sweep(monkeypatch, tmp_path):
    base = ["slurm", f"runs_dir={tmp_path}", "launcher.submit=false", "compare=[]"]
    for settings in (["env=maze2d-umaze", "agent=iql"], ["agent=iql", "seed=0", "env=maze2d-umaze"]):
        assert pgd(monkeypatch, [*base, *settings]) == 0
    assert len(list(tmp_path.glob("sweep/*"))) == 1
    assert pgd(monkeypatch, [*base, "env=maze2d-umaze", "agent=iql", "seed=1"]) == 0
    assert len(list(tmp_path.glob("sweep/*"))) == 2


def test_ls_names_points_that_have_not_begun_and_what_their_log_says(monkeypatch, tmp_path, capsys):
    written(monkeypatch, tmp_path, "compare=[]")
    (folder,) = tmp_path.glob("sweep/*")
    (folder / "logs" / "2.log").write_text("--- job 7_2\nerror: There is no file /nope.hdf5.\n\n")
    capsys.readouterr()
    assert pgd(monkeypatch, ["ls", f"runs_dir={tmp_path}"]) == 0
    said = capsys.readouterr().out
    assert said.count("  missing ") == 4
    assert "\n4 missing\n" in said
    assert f"{folder}/logs/2.log: error: There is no file /nope.hdf5." in said
    assert "task 3, 1 of 1 agents  agent=td3_bc seed=1  (in " in said


def test_what_is_in_the_queue_is_shown_with_slurms_reason(monkeypatch):
    lines = "0 job 1_0, PENDING (PartitionTimeLimit)\n3 job 1_3, RUNNING n1\nN/A job 5, RUNNING n1\n"
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: subprocess.CompletedProcess(args, 0, lines))
    assert slurm.queued("pgd-x") == {0: "job 1_0, PENDING (PartitionTimeLimit)", 3: "job 1_3, RUNNING n1"}


def test_nothing_is_submitted_while_the_queue_cannot_be_read(monkeypatch):
    asked = []

    def refuses(command, **kwargs):
        asked.append(command)
        return subprocess.CompletedProcess(command, 1, "", "slurm_load_jobs error: Unable to contact controller\n")

    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(subprocess, "run", refuses)
    with pytest.raises(UserError, match="cannot be read .slurm_load_jobs error: Unable to contact controller., so"):
        slurm.queued("pgd-x")
    assert "--me" in asked[0], "the jobs of others"


def test_the_same_sweep_in_another_folder_is_another_job(monkeypatch, tmp_path):
    names = []
    monkeypatch.setattr(slurm, "queued", lambda name: (names.append(name), {})[1])
    for folder in ("one", "two", "one"):
        settings = ["env=maze2d-umaze", "compare=[]", "launcher.submit=false", f"runs_dir={tmp_path}/{folder}"]
        assert pgd(monkeypatch, ["slurm", *settings]) == 0
    assert names[0] == names[2] != names[1]


# --- the doctor ---


def findings(env: dict[str, str], *overrides: str) -> list[tuple[str, str, str]]:
    config = compose_config("doctor", ["env=maze2d-umaze", "scale=smoke", *overrides])
    return [(f.status, f.text, f.fix) for f in doctor.slurm(config, env)]


STEP = {"SLURM_JOB_ID": "7", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "1", "SLURM_JOB_NAME": "pgd"}


def test_doctor_compares_slurm_with_the_trainer():
    assert findings({})[0][0] == "ok"
    assert findings(STEP, "trainer=ddp", "trainer.devices=2")[0][0] == "ok"
    ((status, text, fix),) = findings(STEP)
    assert status == "error"
    assert (
        text == "srun started 2 on 1 nodes, but the trainer wants 1 processes (trainer.devices=1, trainer.num_nodes=1)"
    )
    assert fix.startswith("set trainer.devices=2 trainer.num_nodes=1 in the config, or --nodes=1 --ntasks-per-node=1")
    ((status, _, fix),) = findings(STEP | {"SLURM_JOB_NAME": "bash"}, "trainer=ddp", "trainer.devices=2")
    assert (status, fix) == ("error", "give the job another name: sbatch --job-name=pgd")
    ((status, _, fix),) = findings({"SLURM_JOB_ID": "7"}, "trainer=slurm", "trainer.devices=1", "trainer.num_nodes=2")
    assert (status, fix) == ("error", "write srun pgd …")


def test_doctor_speaks_of_everything(monkeypatch, tmp_path, capsys):
    settings = ["env=maze2d-umaze", f"runs_dir={tmp_path}", f"data.source={tmp_path}/none.hdf5"]
    assert pgd(monkeypatch, ["doctor", *settings]) == 1
    said = capsys.readouterr()
    for about in ("python", "packages", "gpu", "slurm", "mujoco", "opengl", "data", "runs", "cache", "wandb"):
        assert f" {about} " in said.out
    assert "-> check data.source=" in said.out
    assert "This job cannot run here: data" in said.err


def test_every_job_begins_with_the_count_of_processes(monkeypatch, tmp_path, capsys):
    for name, value in STEP.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    assert pgd(monkeypatch, ["prior", "env=maze2d-umaze", "scale=smoke", f"runs_dir={tmp_path}"]) == 1
    assert "srun started 2 on 1 nodes" in capsys.readouterr().err
    assert not list(tmp_path.rglob("run.json"))


def test_a_job_with_gpus_that_torch_cannot_use_does_not_run_on_the_cpu(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setenv("SLURM_GPUS_ON_NODE", "1")
    assert pgd(monkeypatch, ["prior", "env=maze2d-umaze", "scale=smoke", f"runs_dir={tmp_path}"]) == 1
    assert "this job was given GPUs that torch does not use" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "status", "said"),
    [
        (["env=Pendulum-v1", "data.source=local"], "ok", "random actions in Pendulum-v1 are recorded"),
        (["env=Pendulum-v1"], "error", "no recording is named"),
        (["data.source=ogbench:none-v0", "data.download=true"], "ok", "looked at when the job starts"),
        (["data.source=ogbench:none-v0", "data.download=false"], "error", "none-v0"),
        (["data.source=minari:mujoco/hopper/none-v0", "data.download=true"], "ok", "looked at when the job starts"),
    ],
)
def test_doctor_looks_for_the_data_as_the_job_does(settings, status, said):
    (found,) = doctor.data(compose_config("doctor", settings))
    assert found.status == status
    assert said in f"{found.text} {found.fix}"


def test_doctor_goes_on_after_a_check_that_fails(monkeypatch, capsys):
    """Without a simulator, and with a disk that cannot be asked, the rest is still said."""

    def broken(*_):
        raise OSError("no such device")

    monkeypatch.setattr(doctor, "make", broken)
    monkeypatch.setattr(doctor.shutil, "disk_usage", broken)
    with pytest.raises(UserError, match="mujoco, opengl, disk"):
        doctor.main(compose_config("doctor", ["env=hopper-medium", "data.source=local"]), [])
    said = capsys.readouterr().out
    assert "opengl     could not be looked at: OSError: no such device" in said
    assert "wandb" in said


def test_doctor_says_cores_and_threads(monkeypatch, capsys):
    monkeypatch.setattr(doctor.os, "sched_getaffinity", lambda _: {0, 5}, raising=False)
    monkeypatch.setattr(doctor.os, "cpu_count", lambda: 8)
    for threads, status in ((2, "ok"), (8, "warning")):
        monkeypatch.setattr(doctor.torch, "get_num_threads", lambda threads=threads: threads)
        (found,) = doctor.cores(compose_config("doctor", []))
        assert (found.status, found.text) == (status, f"2 of 8 allowed, torch computes in {threads} threads")
    assert found.fix == "set OMP_NUM_THREADS=2"


def test_doctor_takes_what_slurm_takes(monkeypatch, tmp_path, capsys):
    settings = ["env=maze2d-umaze", "agent=iql,td3_bc", "launcher.time='01:00:00'", f"runs_dir={tmp_path}"]
    monkeypatch.setattr(doctor, "opengl", lambda config: iter(()))
    assert pgd(monkeypatch, ["doctor", *settings]) == 0
    assert "mujoco" in capsys.readouterr().out


# --- the list ---


def test_ls_tells_the_states_apart(tmp_path, monkeypatch, capsys):
    now = time.time()
    gone = subprocess.Popen(["true"])
    gone.wait()
    here = os.uname().nodename
    beats = {
        "running": {"host": here, "pid": os.getpid(), "time": now, "step": 5, "total": 10},
        "killed": {"host": here, "pid": gone.pid, "time": now},
        "stale": {"host": "elsewhere", "pid": 1, "time": now - 5000},
        "finished": {},
        "failed": {},
    }
    for name, beat in beats.items():
        run = Run.at(str(tmp_path), "agent", "maze2d-umaze", name, {"name": name}, 0)
        run.update(state=name if name in ("finished", "failed") else "running", reason="value alarm", score=12.34)
        if beat:
            (run.folder / "heartbeat.json").write_text(json.dumps(beat))
        os.utime(run.folder / "run.json", (now - 5000, now - 5000))
    assert pgd(monkeypatch, ["ls", f"runs_dir={tmp_path}"]) == 0
    said = capsys.readouterr().out
    for name in beats:
        (line,) = [line for line in said.splitlines() if f"  {name}-" in line]
        assert line.split()[0] == name
    assert "5/10" in said
    assert "value alarm" in said
    assert "1 failed, 1 finished, 1 killed, 1 running, 1 stale" in said
    assert pgd(monkeypatch, ["ls", f"runs_dir={tmp_path}", "state=stale"]) == 0
    assert "killed-" not in capsys.readouterr().out


OUTCOMES = [
    ({"score": 12.34}, "score 12.3"),
    ({"success": 75.0}, "success rate 75.0 %"),
    ({"return": -1234.56}, "return -1234.6"),
    ({"return": 3.0, "success": 50.0}, "success rate 50.0 %"),  # measured again, otherwise
    ({}, ""),  # env=none
]


@pytest.mark.parametrize(("measured", "said"), OUTCOMES)
def test_ls_and_sweep_name_what_was_measured(tmp_path, monkeypatch, capsys, measured, said):
    run = Run.at(str(tmp_path), "agent", "some-env", "iql-none", {} if measured else {"env": {"task": "none"}}, 0)
    run.update(state="finished", settings=["these"], **measured)
    row = {"purpose": "final", "step": 9, "seed": 0, "index": 0, "return": 1.0, "simulator": "none"}
    run.append("ledger.jsonl", [row] if measured else [])
    assert pgd(monkeypatch, ["ls", f"runs_dir={tmp_path}"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "  iql-none-" in line]
    shown = " ".join(line.split()[1:-2])  # between the state and the age
    sweep.summarise([Point(0, [], "seed=0", tmp_path, [AgentOfPoint("some-env", 0, "these")])])
    summary = " ".join(capsys.readouterr().out.split())
    assert (shown, summary) == (said, f"finished {said} seed=0".replace("  ", " "))


def test_a_damaged_run_is_named_once_by_ls_and_sweep(tmp_path, monkeypatch, capsys):
    """However often they look at it."""
    broken, whole = (Run.at(str(tmp_path), "agent", "maze2d-umaze", "iql-none", {"of": of}, 0) for of in "ab")
    settings = ["sweep", "env=maze2d-umaze", "agent=iql,td3_bc", "compare=[]", f"runs_dir={tmp_path}"]
    (broken.folder / "run.json").write_text("{")
    monkeypatch.setattr(sweep, "train", lambda point: 1)
    for arguments, code in ((settings, 1), (["ls", f"runs_dir={tmp_path}"], 0)):
        assert pgd(monkeypatch, arguments) == code
        said = capsys.readouterr()
        assert said.out.count(f"{broken.folder / 'run.json'} is damaged") == 1
    assert whole.folder.parent.name in said.out
    assert said.out.endswith("2 missing, 1 new\n")


@pytest.mark.parametrize("text", ["{", "3", '{"agents": []}', '{"points": [[]], "labels": [], "agents": [[]]}',
                                  '{"points": [[]], "labels": [""], "agents": [[{}]]}'])  # fmt: skip
def test_a_damaged_sweep_is_named_and_the_runs_are_listed(tmp_path, monkeypatch, capsys, text):
    Run.at(str(tmp_path), "agent", "maze2d-umaze", "iql-none", {}, 0)
    file = tmp_path / "sweep" / "0" / "sweep.json"
    file.parent.mkdir(parents=True)
    file.write_text(text)
    assert pgd(monkeypatch, ["ls", f"runs_dir={tmp_path}"]) == 0
    said = capsys.readouterr().out
    assert said.count(f"warning: {file} is damaged (") == 1
    assert said.endswith("1 new\n")


# --- sweeps ---


@pytest.mark.usefixtures("drawn_by_nobody")
def test_sweep_trains_what_is_missing_and_names_what_failed(recording, tmp_path, monkeypatch, capsys):
    """Both points fail, as a file stands where runs go; one is then trained by hand, and the command trains the other."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [UNDRAWING, os.environ.get("PYTHONPATH")])))
    settings = [o for o in SMALL if not o.startswith("env=")]
    points = ["env=maze2d-umaze", "agent=iql,td3_bc", "generator=none", "compare=[]", f"data.source={recording}",
              f"runs_dir={tmp_path}", *settings, "updates=30", "synthetic.batch_size=256"]  # fmt: skip
    broken = tmp_path / "agent"
    broken.write_text("a file where the folder of runs should be")
    with monkeypatch.context() as patch:
        patch.setattr(sweep, "train", lambda point: pgd(patch, ["train", *point]))  # else in a process of its own
        assert pgd(patch, ["sweep", *points]) == 1
    said = capsys.readouterr()
    assert "2 of 2 points are not trained: agent=iql; agent=td3_bc" in said.err
    broken.unlink()
    alone = [o.replace("iql,td3_bc", "iql") for o in points]
    assert pgd(monkeypatch, ["train", *alone]) == 0  # by hand: the sweep finds it
    capsys.readouterr()
    assert pgd(monkeypatch, ["sweep", *points]) == 0
    said = capsys.readouterr().out
    assert "sweep: 2 points, 1 trained already" in said
    assert "MISSING" not in said
    assert pgd(monkeypatch, ["sweep", *points]) == 0
    assert "sweep: 2 points, 2 trained already" in capsys.readouterr().out


def running_child(root: Path, spared: set[str]) -> tuple[str, int] | None:
    """Folder and process of an agent run that has begun to train, if there is one that is not ``spared``."""
    for path in root.glob("agent/*/*/*/run.json"):
        run = Run(path.parent)
        beat = run.heartbeat
        begun = run.record.get("state") == "running" and beat.get("step", 0) >= 0 and "total" in beat
        if begun and str(path.parent) not in spared and "bc-none" not in str(path):
            return str(path.parent), beat["pid"]
    return None


@pytest.mark.slow
def test_a_sweep_of_eight_with_two_killed_is_completed_by_one_more_command(recording, tmp_path):
    settings = [o for o in SMALL if not o.startswith(("env=", "updates="))]
    points = ["env=maze2d-umaze", "agent=iql,td3_bc", "generator=none,unguided", "seed=0,1", "compare=[]", "updates=400",
              f"data.source={recording}", f"runs_dir={tmp_path}", *settings]  # fmt: skip
    command = [sys.executable, "-m", "pgd_lightning", "sweep", *points]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    killed: set[str] = set()
    while len(killed) < 2 and first.poll() is None:
        if found := running_child(tmp_path, killed):
            os.kill(found[1], signal.SIGKILL)
            killed.add(found[0])
        time.sleep(0.05)
    out, err = first.communicate(timeout=600)
    assert first.returncode == 1, out
    assert "2 of 8 points are not trained" in err
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "sweep: 8 points, 6 trained already" in done.stdout
    assert "MISSING" not in done.stdout
    assert all(Run(Path(folder)).finished for folder in killed)
