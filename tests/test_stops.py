"""A signal ends a command, whatever handles errors where it arrives: injected into each place that handles many."""

import ast
import re
import signal
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import wandb
from helpers.commands import SMALL, pgd
from omegaconf import OmegaConf

import pgd_lightning
from pgd_lightning import randomness
from pgd_lightning.artifacts.training_settings import mirror_settings
from pgd_lightning.commands import check, dashboard, doctor
from pgd_lightning.config.build import build
from pgd_lightning.config.compose import compose_config
from pgd_lightning.data.d4rl import cache, download
from pgd_lightning.data.d4rl import package as legacy
from pgd_lightning.errors import Stopped
from pgd_lightning.runs.checkpoints import AtomicCheckpointIO, newest_checkpoint
from pgd_lightning.runs.console import Counter, stop_if_asked, stopping_on_signals
from pgd_lightning.runs.run import Run
from pgd_lightning.training import fit as fitting
from pgd_lightning.training.loggers import loggers

SOURCE = Path(pgd_lightning.__file__).parent


def prior(recording: Path, runs_dir: Path) -> list[str]:
    return ["prior", f"data.source={recording}", f"runs_dir={runs_dir}", *SMALL]


def run_below(runs_dir: Path) -> Run:
    (path,) = runs_dir.glob("prior/*/*/0")
    return Run(path)


class Arrives:
    """Called in place of what may fail: a signal arrives meanwhile."""

    def __init__(self, number: int = signal.SIGTERM) -> None:
        self.number, self.times = number, 0

    def __call__(self, *args, **kwargs):
        self.times += 1
        signal.raise_signal(self.number)


def mirror(tmp_path):
    config = compose_config("train", ["env=maze2d-umaze", "logger.wandb=offline", f"runs_dir={tmp_path}"])
    run = Run.at(str(tmp_path), "agent", "maze2d-umaze", "iql-none", {}, 0)
    return loggers(mirror_settings(config, {}), run)[1]


def wandb_begins(patch, tmp_path):
    patch.setattr(wandb, "init", arrives := Arrives())
    yield arrives
    mirror(tmp_path)


def wandb_logs(patch, tmp_path):
    made = mirror(tmp_path)
    patch.setattr(made.wandb, "log_metrics", arrives := Arrives())
    yield arrives
    made.log_metrics({"loss": 1.0}, 0)


def wandb_ends(patch, tmp_path):
    made = mirror(tmp_path)
    patch.setattr(made.wandb.experiment, "finish", arrives := Arrives())
    yield arrives
    made.close()


def reading_a_checkpoint(patch, tmp_path):
    torch.save({}, tmp_path / "step=1.ckpt")
    patch.setattr(torch, "load", arrives := Arrives())
    yield arrives
    newest_checkpoint(tmp_path)


def saving_a_checkpoint(patch, tmp_path):
    patch.setattr(torch, "save", arrives := Arrives())
    yield arrives
    AtomicCheckpointIO().save_checkpoint({}, tmp_path / "step=1.ckpt")


def building_from_a_config(patch, tmp_path):
    patch.setattr(randomness, "derive_seed", arrives := Arrives())
    yield arrives
    build({"_target_": "pgd_lightning.randomness.derive_seed"})


def importing_the_old_package(patch, tmp_path):
    patch.setattr(legacy, "import_module", arrives := Arrives())
    yield arrives
    legacy.fetch(build(compose_config("train", ["env=hopper-medium"]).env))


def saving_the_dashboard(patch, tmp_path):
    patch.setattr(dashboard, "workspace", lambda *_: type("Made", (), {"save": arrives, "url": ""})())
    yield (arrives := Arrives())
    dashboard.main(compose_config("dashboard", ["entity=me"]), [])


def examining_the_machine(patch, tmp_path):
    patch.setattr(doctor, "python", arrives := Arrives())
    yield arrives
    doctor.main(compose_config("doctor", ["env=maze2d-umaze"]), [])


def starting_a_simulator(patch, tmp_path):
    patch.setattr(doctor, "make", arrives := Arrives())
    yield arrives
    list(doctor.simulator(compose_config("doctor", ["env=maze2d-umaze"])))


def asking_a_server(patch, tmp_path):
    patch.setattr(urllib.request, "urlopen", arrives := Arrives())
    yield arrives
    env = build(compose_config("train", ["env=hopper-medium"]).env)
    download.locate(env, "d4rl", tmp_path, "http://127.0.0.1:9", 1, 3)


def looking_at_a_download(patch, tmp_path):
    patch.setattr(download, "opened", arrives := Arrives())
    yield arrives
    download._damage(tmp_path / "x.part")


def comparing_physics(patch, tmp_path):
    env = build(compose_config("train", ["env=maze2d-umaze"]).env)
    patch.setattr(check, "make", arrives := Arrives())
    patch.setattr(check, "sampled_rows", lambda *_: [0])
    yield arrives
    check.compare_physics(OmegaConf.create({"rows": 1, "seed": 0}), env, None, None)


def reading_into_the_cache(patch, tmp_path):
    yield (arrives := Arrives())
    cache.cached(tmp_path, "key", arrives, print)


PLACES = [
    wandb_begins, wandb_logs, wandb_ends, reading_a_checkpoint, saving_a_checkpoint, building_from_a_config,
    importing_the_old_package, saving_the_dashboard, examining_the_machine, starting_a_simulator, asking_a_server,
    looking_at_a_download, comparing_physics, reading_into_the_cache,
]  # fmt: skip


@pytest.mark.parametrize(
    ("place", "number"), [(wandb_begins, signal.SIGINT), *((place, signal.SIGTERM) for place in PLACES)]
)
def test_a_signal_is_no_failure_of_what_it_arrives_in(monkeypatch, tmp_path, capsys, place, number):
    steps = place(monkeypatch, tmp_path)
    arrives = next(steps)
    arrives.number = number
    with pytest.raises(Stopped, match=f"Stopped by {signal.Signals(number).name}"), stopping_on_signals():
        next(steps, None)
    assert arrives.times == 1  # not tried again
    assert "failed" not in capsys.readouterr().out


def handlers_of_everything() -> set[str]:
    """Where this package handles exceptions of whatever kind, a stop included."""
    found = set()
    for file in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ExceptHandler):
                kind = ast.unparse(node.type) if node.type else "BaseException"
            elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("suppress"):
                kind = ast.unparse(node)
            else:
                continue
            if re.search(r"\b(BaseException|Stopped|KeyboardInterrupt)\b", kind):
                found.add(f"{file.relative_to(SOURCE)}: {kind}")
    return found


def test_only_the_command_and_the_run_handle_a_stop():
    """The first says it, the second notes it down and raises it again."""
    assert handlers_of_everything() == {
        "__main__.py: KeyboardInterrupt", "__main__.py: (Exception, Stopped)", "runs/run.py: (Stopped, KeyboardInterrupt)",
    }  # fmt: skip


class Destroyed:
    def __del__(self) -> None:
        signal.raise_signal(signal.SIGTERM)


def lost_in_a_destructor():
    Destroyed()


def handled_by_a_library():
    with suppress(BaseException):
        signal.raise_signal(signal.SIGTERM)


def made_another_error_by_a_library():
    try:
        signal.raise_signal(signal.SIGTERM)
    except BaseException as error:
        raise RuntimeError("unexpected position") from error


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("library", [lost_in_a_destructor, handled_by_a_library, made_another_error_by_a_library])
def test_a_stop_that_was_lost_ends_the_command_at_the_next_look(library):
    with (
        pytest.raises(Stopped, match="Stopped by SIGTERM"),
        stopping_on_signals(),
        Counter("rows", 9, "rows") as counter,
    ):
        library()
        counter.show(1)
    with stopping_on_signals():
        stop_if_asked()  # the next command was not asked


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_lost_signal_stops_the_next_training(recording, tmp_path, monkeypatch, capsys, number, code):
    """Lightning's own answer to Ctrl-C, which is to exit with 1, is not asked."""
    begin = fitting.loggers

    def interrupted(*args):
        with pytest.raises(Stopped):
            signal.raise_signal(number)
        return begin(*args)

    monkeypatch.setattr(fitting, "loggers", interrupted)
    assert pgd(monkeypatch, prior(recording, tmp_path)) == code
    said = capsys.readouterr()
    assert f"Stopped by {number.name} at step 1; everything is saved" in said.err
    assert run_below(tmp_path).record["state"] == "stopped"


@pytest.mark.parametrize("where", ["setup", "last step"])
def test_a_signal_around_a_training_stops_the_command(recording, tmp_path, monkeypatch, capsys, where):
    hook = {"setup": "setup", "last step": "on_train_end"}[where]
    monkeypatch.setattr(fitting.Heartbeat, hook, Arrives(signal.SIGINT))
    assert pgd(monkeypatch, prior(recording, tmp_path)) == 130
    assert "Stopped by SIGINT; the same command continues" in capsys.readouterr().err
    run = run_below(tmp_path)
    assert run.record["state"] == "stopped"
    assert (run.checkpoints / "step=000000060.ckpt").exists() == (where == "last step")


def test_stops_leave_no_more_than_two_checkpoints(recording, tmp_path, monkeypatch):
    """Each at a step of its own, and one of them killed while it saved."""
    hook = fitting.Heartbeat.on_train_batch_end

    def stopping(heartbeat, trainer, *args):
        hook(heartbeat, trainer, *args)
        if trainer.global_step in (7, 22, 41):
            signal.raise_signal(signal.SIGTERM)

    steps = []
    with monkeypatch.context() as patch:
        patch.setattr(fitting.Heartbeat, "on_train_batch_end", stopping)
        for _ in range(3):
            assert pgd(patch, prior(recording, tmp_path)) == 75
            folder = run_below(tmp_path).checkpoints
            steps.append(sorted(int(path.stem.removeprefix("step=")) for path in folder.glob("*.ckpt")))
            (folder / ".step=000000001.ckpt.part").write_text("what a kill during a save leaves")
    assert steps == [[7], [20, 22], [40, 41]]
    AtomicCheckpointIO().save_checkpoint({}, folder / "step=000000041.ckpt")
    assert sorted(path.name for path in folder.iterdir()) == ["step=000000040.ckpt", "step=000000041.ckpt"]
