"""The verdict on a prior, on recorded windows whose quality is known."""

import pytest
import torch
from helpers.commands import command, pgd

from pgd_lightning.data import d4rl
from pgd_lightning.data.environments import environment
from pgd_lightning.data.windows import split_windows
from pgd_lightning.evaluation.verdict import Verdict, verdict
from pgd_lightning.simulators import make
from pgd_lightning.simulators.substitutes.recipes import RECIPES


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Windows of a maze, and the deviations of its observations."""
    path = tmp_path_factory.mktemp("data") / "maze.hdf5"
    d4rl.write(path, (chunk for chunk, _ in RECIPES["maze2d-umaze"].record(1000, 0, {})), {}, 1000)
    data = d4rl.load(path, environment("maze2d-umaze", "today"), out_of_box="clip")
    train, _ = split_windows(data, 8, 8, 0.0, 0)
    return train[torch.arange(40)], data.obs.std(0, correction=0)


def judged(recorded, made) -> Verdict:
    windows, std = recorded
    return verdict(make("maze2d-umaze", "today"), made, windows, std, 100, 0)


def test_a_loss_that_is_broken_from_the_beginning_is_not_the_learning_rates(recording, tmp_path, monkeypatch, capsys):
    arguments = ["prior", *command(recording, tmp_path)[1:], "process.p_mean=1e30"]
    assert pgd(monkeypatch, [a for a in arguments if not a.startswith("compare")]) == 1
    said = capsys.readouterr().err
    assert "at step 0, before anything is learned: process.*" in said
    assert "learning_rate" not in said


def test_recorded_windows_err_no_more_than_the_data(recorded):
    found = judged(recorded, recorded[0])
    assert found.error == found.floor < 1e-10
    assert "within the limit" in found.sentence(0.01)
    assert found.variance == pytest.approx(1, abs=0.3)  # 40 windows of eight
    assert f"keep {found.variance:.0%} of the observations' variance" in found.sentence(0.01)


def test_windows_that_crowd_around_their_mean_lack_variance(recorded):
    windows, std = recorded
    crowded = windows.clone()
    crowded.obs[:] = windows.obs.mean((0, 1)) + 0.5 * (windows.obs - windows.obs.mean((0, 1)))
    assert judged(recorded, crowded).variance == pytest.approx(judged(recorded, windows).variance / 4, rel=1e-4)
    constant = torch.cat([std[:1], torch.zeros(len(std) - 1)])  # dims in which the data do not vary have no part
    some = verdict(make("maze2d-umaze", "today"), windows, windows, constant, 100, 0).variance
    assert some == pytest.approx(float(windows.obs[..., 0].var(correction=0) / std[0] ** 2), rel=1e-4)


def test_windows_in_which_nothing_moves_err_by_what_a_step_changes(recorded):
    still = recorded[0].clone()
    still.obs[:] = still.obs[:, :1].clone()
    found = judged(recorded, still)
    assert found.persistence / 5 < found.error < 5 * found.persistence
    assert "may harm an agent" in found.sentence(0.01)


def test_windows_that_are_not_finite_are_harmful(recorded):
    broken = recorded[0].clone()
    broken.obs[5:] = torch.nan
    assert "warning: median one-step error inf" in judged(recorded, broken).sentence(0.01)


def test_windows_without_a_step_that_can_be_tried_are_not_judged(recorded):
    ended = recorded[0].clone()
    ended.terminated[:] = True
    found = judged(recorded, ended)
    assert found.error is None
    assert found.sentence(0.01).startswith("one-step error: not available, because no row could be restored. The prior")


def test_a_simulator_that_is_not_that_of_the_data_judges_nothing():
    said = Verdict(error=0.5, persistence=1.0, floor=0.2).sentence(0.01)
    assert "does not reproduce the data" in said
    assert "longer" not in said
