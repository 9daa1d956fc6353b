"""The package from Python: it finds what commands made, gives their numbers, and takes anyone's data and policy."""

import json
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from helpers.commands import SMALL, run_of
from torch.distributions import Normal

import pgd_lightning as pgd
from pgd_lightning.errors import UserError
from pgd_lightning.trajectory import Trajectory


def settings(runs, *without: str) -> dict[str, str]:
    pairs = (setting.split("=", 1) for setting in SMALL)
    return {key: value for key, value in pairs if key not in ("env", *without)} | {"runs_dir": str(runs)}


@pytest.fixture
def data(recording, copied):
    return pgd.load(recording, env="maze2d-umaze", settings=settings(copied))


@pytest.fixture
def prior(data):
    return pgd.train_prior(data)


def arrays(recording) -> dict[str, np.ndarray]:
    with h5py.File(recording) as file:
        return {key: file[key][:] for key in ("observations", "actions", "rewards", "terminals", "timeouts")}


def to_the_right(obs):
    return Normal(torch.tensor([0.8, 0.0]).expand(len(obs), 2), 0.2)


def test_python_finds_what_the_command_trained(data, copied):
    prior = pgd.train_prior(data)
    (kept,) = copied.glob("prior/*/*/0/checkpoints/step=000000060.ckpt")
    for name, weights in torch.load(kept, weights_only=True)["state_dict"].items():
        assert torch.equal(prior.state_dict()[name], weights)
    trained = pgd.train_agent(data, agent="iql", generator="pgd")
    run = run_of(copied, "pgd")
    assert trained.folder == run.folder
    rows = [row["score"] for row in run.rows("ledger.jsonl") if row["purpose"] == "final"]
    assert sorted(trained.scores.flatten().tolist()) == sorted(rows)
    assert not [path for path in copied.glob("*/*/*/0/run.json") if '"starts": []' in path.read_text()]


def test_a_function_guides_the_windows_toward_itself(data, prior):
    unguided = pgd.generate(prior, windows=64)
    guided = pgd.generate(prior, to_the_right, windows=64, coef=4.0)
    assert unguided.batch_size == guided.batch_size == (64, 32)
    assert torch.equal(unguided.obs, pgd.generate(prior, windows=64).obs)
    before, after = (pgd.fidelity(windows, data, to_the_right, steps=200) for windows in (unguided, guided))
    assert after.log_likelihood > before.log_likelihood + 1
    assert (guided.action[..., 0] - 0.8).abs().mean() < (unguided.action[..., 0] - 0.8).abs().mean() - 0.1
    assert before.windows == 64 and before.finite == 1 and before.one_step_error > 0 and before.reset == "exact"
    assert pgd.fidelity(unguided, data, steps=200).log_likelihood is None
    assert "one step error" in str(after)


def test_a_run_folder_and_a_trained_agent_are_the_same_policy(data, prior, copied):
    trained = pgd.train_agent(data)
    by_agent = pgd.generate(prior, trained.policy, windows=8)
    by_folder = pgd.generate(prior, trained.folder, windows=8)
    assert by_agent.batch_size == (trained.scores.shape[0], 8, 32)
    assert torch.equal(by_agent.obs, by_folder.obs)
    assert pgd.evaluate(trained.folder, data, episodes=2).returns.shape == (trained.scores.shape[0], 2)
    assert pgd.fidelity(by_agent, data, trained.policy, steps=100).windows == 8 * trained.scores.shape[0]


def test_scores_are_of_the_episodes_that_were_asked_for(data, copied):
    """As on the run's page: another command may have measured more."""
    run = run_of(copied, "pgd")
    asked = [row for row in run.rows("ledger.jsonl") if row["purpose"] == "final"]
    run.append("ledger.jsonl", [{**row, "index": row["index"] + 2, "return": 1e6} for row in asked])
    trained = pgd.train_agent(data)
    assert trained.scores.tolist() == [[row["score"] for row in asked if row["seed"] == seed] for seed in (0, 1)]
    summary = json.loads((run.folder / "report" / "summary.json").read_text())
    assert trained.scores.mean() == pytest.approx(summary["scores"]["pgd"]["mean"])


def test_an_agent_of_another_environment_is_refused(data, copied):
    def of(**facts):
        return replace(data, dataset=replace(data.dataset, env=replace(data.env, **facts)))

    folder = run_of(copied, "pgd").folder
    assert pgd.evaluate(folder, of(name="another recording there"), episodes=1).returns.shape == (2, 1)
    for facts in ({"task": "hopper"}, {"obs_dim": 5}, {"action_low": [-2, -2], "action_high": [2, 2]}):
        with pytest.raises(UserError, match=f"^The agent in {folder} was trained in maze2d-umaze .*, but the data are"):
            pgd.evaluate(folder, of(**facts), episodes=1)
    policy = pgd.train_agent(data).policy
    for facts in ({"obs_dim": 5}, {"action_dim": 3}):
        with pytest.raises(UserError, match="^The agent does not belong to these data: in maze2d-umaze there are"):
            pgd.as_target(policy, of(**facts))


def test_arrays_are_a_recording(recording, copied):
    own = pgd.load(arrays(recording), env="maze2d-umaze", settings=settings(copied))
    there = pgd.load(recording, env="maze2d-umaze", settings=settings(copied))
    for name in ("obs", "action", "reward", "terminated"):
        assert torch.equal(getattr(own.transitions, name), getattr(there.transitions, name))
    again = pgd.load(arrays(recording), env="maze2d-umaze", settings=settings(copied))
    assert again.dataset.path == own.dataset.path and own.dataset.path.parent == copied / "arrays"


def test_windows_become_what_other_libraries_read(data, prior, tmp_path):
    windows = pgd.generate(prior, windows=8)
    columns = pgd.to_numpy(windows, data)
    assert columns["observations"].shape == (8 * 32, 4) and columns["timeouts"].sum() + columns["terminals"].sum() >= 8
    pgd.save(windows, tmp_path / "windows.hdf5", data)
    with h5py.File(tmp_path / "windows.hdf5") as file:
        np.testing.assert_array_equal(file["observations"][:], columns["observations"])
    steps = windows.transitions().to_torchrl()
    assert steps.batch_size == (8 * 31,) and steps["next", "reward"].shape == (8 * 31, 1)
    with pytest.raises(UserError, match="overwrite"):
        pgd.save(windows, tmp_path / "windows.hdf5", data)
    windows.obs[3] = torch.nan
    with pytest.raises(UserError, match="^save: 1 of 8 windows are not finite"):
        pgd.save(windows, tmp_path / "broken.hdf5", data)
    narrow = {name: getattr(windows, name) for name in ("action", "reward", "terminated")}
    with pytest.raises(UserError, match="^save: the windows have observations of 3 and actions of 2 values"):
        pgd.save(Trajectory(obs=windows.obs[..., :3], **narrow, batch_size=[8, 32]), tmp_path / "x.hdf5", data)


def test_what_does_not_fit_is_one_sentence(recording, copied, prior):
    with pytest.raises(UserError, match=r"^load\('.*maze\.hdf5'\): name its environment too"):
        pgd.load(recording)
    few = arrays(recording)
    with pytest.raises(UserError, match="^load: the arrays lack timeouts"):
        pgd.load({key: few[key] for key in few if key != "timeouts"}, env="maze2d-umaze")
    with pytest.raises(UserError, match="^load: the arrays have different lengths"):
        pgd.load(few | {"rewards": few["rewards"][:-1]}, env="maze2d-umaze", settings=settings(copied))
    with pytest.raises(UserError, match="^generate needs a prior of pgd_lightning.train_prior"):
        prior.trained_on = None
        pgd.generate(prior)
    with pytest.raises(UserError, match="^generate needs a prior"):
        pgd.generate(pgd.load(recording, env="maze2d-umaze", settings=settings(copied)))


def test_the_package_offers_what_it_says():
    assert all(callable(getattr(pgd, name)) for name in pgd.__all__)
    assert set(pgd.__all__) <= set(dir(pgd))
    with pytest.raises(AttributeError, match="no attribute 'sample'"):
        pgd.sample  # noqa: B018
