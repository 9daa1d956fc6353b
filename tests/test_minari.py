"""Minari as its users have it: public names for ``env=``, downloads that were asked for, HDF5, Arrow and Parquet."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from helpers.commands import pgd

from pgd_lightning.artifacts.dataset import open_dataset
from pgd_lightning.config.compose import compose_config
from pgd_lightning.data import d4rl, minari, minari_writer
from pgd_lightning.data.environments import environment
from pgd_lightning.data.minari_remote import fetch
from pgd_lightning.errors import UserError
from pgd_lightning.report import summary
from pgd_lightning.runs import identity

NAME = "D4RL/pointmaze/umaze-v2"
ENV = environment("maze2d-umaze", "today")
minari_library = pytest.importorskip("minari", reason="minari is not installed: pip install 'minari[hdf5]'")
serialize_space = pytest.importorskip("minari.serialization").serialize_space
EpisodeBuffer = pytest.importorskip("minari.data_collector").EpisodeBuffer


@pytest.mark.parametrize(
    ("name", "env"),
    [("mujoco/hopper/medium-v0", "hopper-medium"), ("mujoco/ant/expert-v0", "ant-expert"),
     ("D4RL/pen/expert-v2", "pen-expert"), ("D4RL/pen/human-v1", "pen-human"), (NAME, "maze2d-umaze"),
     ("D4RL/pointmaze/large-dense-v2", "maze2d-large-dense"), ("D4RL/kitchen/mixed-v2", "kitchen-mixed"),
     ("D4RL/antmaze/medium-play-v1", "antmaze-medium-play")],
)  # fmt: skip
def test_a_public_name_is_an_environment_and_a_source(name, env):
    config = compose_config("train", [f"env={name}", "scale=smoke"])
    assert (config.env.name, config.data.source) == (env, f"minari:{name}")
    assert not config.data.download
    explicit = compose_config("train", [f"env={env}", f"data.source=minari:{name}", "scale=smoke"])
    assert identity.digest(identity.agent(config, "0")) == identity.digest(identity.agent(explicit, "0"))
    elsewhere = compose_config("check", [f"env={name}", "data.source=minari:./mine-v0"])
    assert (elsewhere.env.name, elsewhere.data.source) == (env, "minari:./mine-v0")


@pytest.mark.parametrize(
    ("name", "said"),
    [("mujoco/hopper/simple-v0", "env=hopper-.* and data.source=minari:mujoco/hopper/simple-v0"),
     ("atari/pong/expert-v0", "no environment here for the Minari dataset atari/pong/expert-v0")],
)  # fmt: skip
def test_a_name_without_an_environment_here_says_what_to_do(name, said):
    with pytest.raises(UserError, match=said):
        compose_config("train", [f"env={name}", "scale=smoke"])


def test_a_set_of_another_environment_brings_its_own(tmp_path, monkeypatch):
    """Pendulum is none of D4RL's: the local set names it, with its time limit and its references."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    env, buffers = gymnasium.make("Pendulum-v1", g=9.81), []
    for seed in range(3):
        observations, actions, rewards = [env.reset(seed=seed)[0]], [], []
        for _ in range(200):
            actions.append(env.action_space.sample())
            obs, reward, *_ = env.step(actions[-1])
            observations.append(obs)
            rewards.append(reward)
        ends = np.arange(200) == 199
        columns = map(np.array, (observations, actions, rewards))
        buffers.append(EpisodeBuffer(seed, None, None, *columns, np.zeros(200, dtype=bool), ends, {}))
    minari_library.create_dataset_from_buffers(
        "classic/pendulum/random-v0", buffers, env=env, ref_min_score=-1500.0, ref_max_score=-100.0, algorithm_name="random",
        author="a", author_email="a@b.c", code_permalink="https://a.b", description="random actions",
    )  # fmt: skip
    config = compose_config("train", ["env=classic/pendulum/random-v0", "scale=smoke"])
    assert config.env.task == 'gym:Pendulum-v1 {"g": 9.81}'
    assert (config.env.max_episode_steps, config.env.ref_max_score) == (200, -100.0)
    data = open_dataset(config)
    assert len(data.recording) == 600 and data.env.box is not None
    assert float(data.recording.action.abs().max()) <= 1


# --- downloads, from a folder that plays the remote ---


@pytest.fixture
def remote(tmp_path, recording, monkeypatch) -> Path:
    """A folder with the dataset ``NAME``, under ``MINARI_REMOTE=folder://…``; local datasets are elsewhere."""
    from minari.storage import remotes
    from minari.storage.remotes.cloud_storage import CloudStorage

    class Folder(CloudStorage):
        def __init__(self, name, token=None):
            self.root = Path(name)

        def list_datasets(self, prefix=None):
            found = (p.parent.parent.relative_to(self.root).as_posix() for p in self.root.rglob("data/metadata.json"))
            return [name for name in found if name.startswith(prefix or "")]

        def get_dataset_metadata(self, dataset_id):
            return minari._metadata(self.root / dataset_id)

        def download_dataset(self, dataset_id, path):
            shutil.copytree(self.root / dataset_id, Path(path) / dataset_id)
            if (self.root / "breaks").exists():
                raise ConnectionError("the line went dead")

        def list_namespaces(self):
            return ["D4RL", "D4RL/pointmaze"]

        def download_namespace_metadata(self, namespace, path):
            (Path(path) / namespace).mkdir(parents=True, exist_ok=True)
            (Path(path) / namespace / "namespace_metadata.json").write_text("{}")

        def upload_dataset(self, dataset_id):
            raise NotImplementedError

        def upload_namespace(self, namespace):
            raise NotImplementedError

    folder = tmp_path / "remote"
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(folder))
    minari_writer.write(f"minari:{NAME}", d4rl.load(recording, ENV, "clip"), ENV, "a test", lambda a, b: {})
    monkeypatch.setitem(remotes._registry, "folder", lambda: Folder)
    monkeypatch.setenv("MINARI_REMOTE", f"folder://{folder}")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "here"))
    return folder


def config(*more: str):
    return compose_config("train", [f"env={NAME}", "scale=smoke", "data.cache=null", *more])


def test_nothing_is_fetched_unasked(remote, tmp_path, monkeypatch, capsys):
    with pytest.raises(UserError, match="data.download=true or 'minari download D4RL/pointmaze/umaze-v2'"):
        open_dataset(config())
    assert pgd(monkeypatch, ["check", f"env={NAME}"]) == 1
    assert "nothing is downloaded unasked" in capsys.readouterr().err
    assert not (tmp_path / "here").exists()


def test_what_is_asked_for_is_fetched_once_and_whole(remote, tmp_path, recording, capsys):
    dataset = open_dataset(config("data.download=true"))
    expected = d4rl.load(recording, ENV, "clip")
    for key, values in expected.arrays().items():
        np.testing.assert_array_equal(dataset.recording.arrays()[key], values)
    assert dataset.label.startswith(f"{NAME} (Minari) as maze2d-umaze, not D4RL")
    assert f"downloading {NAME} with Minari" in capsys.readouterr().out
    assert not list((tmp_path / "here").glob(".*.part"))
    shutil.rmtree(remote)
    assert open_dataset(config("data.download=true")).file == dataset.file
    assert open_dataset(config()).file == dataset.file


def test_a_download_that_fails_leaves_nothing_and_says_why(remote, tmp_path):
    (remote / "breaks").touch()
    with pytest.raises(UserError, match=r"could not download .* \(the line went dead\)"):
        open_dataset(config("data.download=true"))
    assert not list((tmp_path / "here").rglob("*.json"))
    (remote / "breaks").unlink()
    with pytest.raises(UserError, match="could not download D4RL/pointmaze/medium-v2"):
        fetch("D4RL/pointmaze/medium-v2", print)


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    monkeypatch.delenv("MINARI_REMOTE", raising=False)
    for module in ("huggingface_hub", "minari.storage.remotes.huggingface"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=r"pip install 'minari\[hdf5,hf\]'"):
        fetch(NAME, print)


# --- scores ---


def test_scores_by_minaris_references_stand_in_rows_of_their_own():
    """A score of 50 is a return of 50; between Minari's 20 and 100 that is 37.5."""
    env = replace(ENV, ref_min_score=0.0, ref_max_score=100.0)
    rows = [{"seed": s, "index": i, "purpose": "final", "step": 9, "score": 50.0 + s, "simulator": "MuJoCo"}
            for s in range(3) for i in range(2)]  # fmt: skip
    stated = {"ref_min_score": 20.0, "ref_max_score": 100.0}
    made = {}
    for name, facts in (("both", stated), ("none", {}), ("one", {"ref_max_score": 100.0})):
        provenance = {"kind": "minari", "minari": facts}
        data = SimpleNamespace(env=env, provenance=provenance)
        made[name] = summary.summarise({"none": rows}, data, "iql", 400, 2)
        assert made[name]["scores"]["none"]["mean"] == pytest.approx(51)
        assert ("minari" in made[name]) == (name == "both")
    assert made["both"]["minari"]["scores"]["none"]["mean"] == pytest.approx(100 * 31 / 80)
    text = summary.table(made["both"], "title").splitlines()
    ours = next(line for line in text if line.startswith("real data only"))
    theirs = text[text.index("scores 0 and 100 are returns of 20 and 100 (the Minari set's own)") + 3]
    assert "51.0 [" in ours and "38.8 [" not in ours
    assert theirs.startswith("real data only") and "38.8 [" in theirs
    assert "(the Minari set's own): real data only 38.8 [" in summary.minari_scores(made["both"])
    assert "own" not in summary.table(made["none"], "title")
    assert "the Minari set's own are not used" in made["one"]["score_constants"]


# --- storage ---


def test_dictionaries_are_flattened_as_gymnasium_does():
    space = spaces.Dict([("speed", spaces.Box(-1, 1, (2, 2))), ("arm", spaces.Dict(angle=spaces.Box(-1, 1, (3,))))])
    space.seed(0)
    samples = [space.sample() for _ in range(5)]
    episode = {
        "speed": np.stack([s["speed"] for s in samples]),
        "arm": {"angle": np.stack([s["arm"]["angle"] for s in samples])},
    }
    found = minari.flattened(episode, json.loads(serialize_space(space)))
    np.testing.assert_array_equal(found, [spaces.flatten(space, s) for s in samples])
    assert minari.flattened(episode, {}) is None
    counts = spaces.Dict(count=spaces.Discrete(3))
    assert minari.flattened({"count": np.zeros(5, dtype=int)}, json.loads(serialize_space(counts))) is None


@pytest.mark.parametrize("data_format", ["arrow", "parquet"])
def test_arrow_is_read_as_hdf5_is(data_format, recording, tmp_path, monkeypatch):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'minari[arrow]'")
    import minari as package

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    expected = d4rl.load(recording, ENV, "clip")
    first = int(expected.ends[4]) + 1  # five episodes
    cut = {k: torch.from_numpy(v[:first]) for k, v in expected.arrays().items() if not k.startswith("successor_")}
    kept = expected.successor_rows < first
    part = replace(
        expected, **cut, successor_rows=expected.successor_rows[kept], successor_values=expected.successor_values[kept]
    )
    obs_space, action_space = minari_writer.spaces(ENV)
    # Without infos: Minari 0.5.4 writes arrays of one number a step in Arrow, but cannot read them again.
    buffers = [replace(buffer, infos=None) for buffer in minari_writer.buffers(part, ENV, lambda a, b: {})]
    package.create_dataset_from_buffers(
        "maze/arrow-v0", buffers, observation_space=obs_space,
        action_space=action_space, data_format=data_format,
    )  # fmt: skip
    folder = tmp_path / "maze" / "arrow-v0"
    assert not list(folder.rglob("*.hdf5"))
    read = minari.load(folder, ENV, d4rl.Reading("clip"))
    for key in ("obs", "action", "reward", "terminated", "truncated"):
        np.testing.assert_array_equal(read.arrays()[key], part.arrays()[key])
    assert torch.equal(read.next_obs, part.next_obs)
    label = minari.provenance(folder, ENV)["label"]
    assert label.startswith("maze/arrow-v0 (Minari) as maze2d-umaze")
