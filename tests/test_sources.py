"""The same recording from wherever it comes: the cache, a Minari dataset, the old d4rl package, another layout."""

import json
import subprocess
import sys
import time
import tracemalloc
import types
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from helpers.processes import forked

from pgd_lightning.artifacts.dataset import open_dataset, read_recording
from pgd_lightning.commands.convert import main as convert
from pgd_lightning.commands.convert import no_infos
from pgd_lightning.config.build import build
from pgd_lightning.config.compose import compose_config
from pgd_lightning.data import d4rl, minari, minari_writer
from pgd_lightning.data.d4rl import cache
from pgd_lightning.data.d4rl import package as legacy
from pgd_lightning.data.recording import ARRAYS, Recording
from pgd_lightning.data.sources import PACKAGE, minari_folder
from pgd_lightning.environment import DataFile, EnvSpec
from pgd_lightning.errors import UserError

SPEC = EnvSpec("toy-x", "toy-x-v0", "toy", "x", 3, 2, 10, 0.0, 1.0, DataFile("toy.hdf5", None, None), "today")
READING = d4rl.Reading("clip")


def columns(number=60, width=3, actions=2, successors=True):
    rng = np.random.default_rng(0)
    terminals, timeouts = np.zeros(number, bool), np.zeros(number, bool)
    terminals[[9, 40]], timeouts[[25, number - 1]] = True, True
    made = {
        "observations": rng.normal(size=(number, width)).astype(np.float32),
        "actions": rng.uniform(-1, 1, (number, actions)).astype(np.float32),
        "rewards": rng.normal(size=number).astype(np.float32),
        "terminals": terminals,
        "timeouts": timeouts,
    }
    if successors:
        after = np.concatenate([made["observations"][1:], made["observations"][:1]])
        after[terminals | timeouts] += 5
        made["next_observations"] = after
    return made


def save(path: Path, data) -> Path:
    with h5py.File(path, "w") as file:
        for key, values in data.items():
            file[key] = values
    return path


def same(ours: Recording, theirs: Recording) -> bool:
    arrays = all(torch.equal(getattr(ours, name), getattr(theirs, name)) for name in ARRAYS)
    return arrays and ours.clipped_actions == theirs.clipped_actions


@pytest.fixture(params=[True, False], ids=["successors", "no successors"])
def recording(request, tmp_path) -> Recording:
    return d4rl.load(save(tmp_path / "toy.hdf5", columns(successors=request.param)), SPEC, "clip")


def test_successors_are_those_of_the_file(recording):
    raw = columns()
    known = recording.has_successor.numpy()
    np.testing.assert_array_equal(recording.next_obs.numpy()[known], raw["next_observations"][known])
    assert len(recording.successor_rows) == 4  # the rest is not stored twice
    rows = torch.tensor([[0, 9], [59, 25]])
    assert torch.equal(recording.successors(rows), recording.next_obs[rows])


def test_steps_gather_what_the_whole_copy_holds(recording):
    steps, whole = recording.steps(), recording.transitions()
    assert len(steps) == len(whole) == int((recording.has_successor | recording.terminated).sum())
    index = torch.tensor([[3, 0], [len(steps) - 1, 7]])
    for name in ("obs", "action", "reward", "next_obs", "terminated"):
        assert torch.equal(getattr(steps[index], name), getattr(whole, name)[index])
    assert torch.equal(steps.obs, whole.obs)
    assert steps[index].batch_size == (2, 2)


def test_successors_cost_no_second_copy_in_memory(tmp_path):
    """Of 2,000,000 ant rows observations are 0.9 GB, so a second copy would be what decides."""
    wide = replace(SPEC, obs_dim=100)
    path = save(tmp_path / "wide.hdf5", columns(250_000, 100))
    tracemalloc.start()
    data = d4rl.load(path, wide, "clip")
    steps = data.steps()
    for _ in range(20):
        steps[torch.randint(len(steps), (4, 256))]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < data.obs.nbytes + (70 << 20) < 1.8 * data.obs.nbytes


class TestCache:
    @staticmethod
    def fail() -> Recording:
        raise AssertionError("the cache was not used")

    def test_second_reader_maps_what_the_first_stored(self, recording, tmp_path):
        folder = tmp_path / "new" / "cache"
        first = cache.cached(folder, "key", lambda: recording, self.fail)
        second = cache.cached(folder, "key", self.fail, self.fail)
        assert same(first, recording)
        assert same(second, recording)
        assert second.notes == recording.notes
        assert {p.name for p in folder.iterdir()} == {"key", "key.lock"}

    @pytest.mark.parametrize("name", [*(f"{array}.npy" for array in ARRAYS), "index.json"])
    def test_damage_is_noticed_and_mended(self, recording, tmp_path, name):
        cache.cached(tmp_path / "c", "key", lambda: recording, self.fail)
        path = tmp_path / "c" / "key" / name
        whole = path.read_bytes()
        for damaged in (whole[:-1], whole[:40] + bytes([whole[40] ^ 1]) + whole[41:], b"", None):
            path.unlink()
            if damaged is not None:
                path.write_bytes(damaged)
            assert same(cache.cached(tmp_path / "c", "key", lambda: recording, self.fail), recording)
            assert same(cache.cached(tmp_path / "c", "key", self.fail, self.fail), recording)
            assert {p.name for p in (tmp_path / "c").iterdir()} == {"key", "key.lock"}

    def test_leftovers_of_a_killed_process_go(self, recording, tmp_path):
        (tmp_path / ".key.123.part").mkdir()
        (tmp_path / ".key.123.part" / "obs.npy").write_bytes(b"half")
        cache.cached(tmp_path, "key", lambda: recording, self.fail)
        assert not list(tmp_path.glob(".*"))

    def test_what_is_mapped_survives_its_replacement_and_is_private(self, recording, tmp_path):
        first = cache.cached(tmp_path / "c", "key", lambda: recording, self.fail)
        (tmp_path / "c" / "key" / "index.json").unlink()
        cache.cached(tmp_path / "c", "key", lambda: recording, self.fail)
        assert same(first, recording)
        first.obs[0] = 7
        assert same(cache.cached(tmp_path / "c", "key", self.fail, self.fail), recording)

    def test_an_unusable_folder_costs_only_memory(self, recording, tmp_path):
        (tmp_path / "file").write_text("in the way")
        said, made = [], []
        found = cache.cached(tmp_path / "file", "key", lambda: made.append(1) or recording, said.append)
        assert same(found, recording)
        assert made == [1]
        assert "cannot be used" in said[0]

    def test_key_follows_everything_that_decides(self):
        keys = {cache.cache_key(identity) for identity in (["a", {"x": 1}], ["b", {"x": 1}], ["a", {"x": 2}])}
        assert len(keys) == 3
        assert cache.cache_key(["a", {"x": 1, "y": 2}]) == cache.cache_key(["a", {"y": 2, "x": 1}])

    def test_processes_at_once_agree(self, tmp_path):
        path = save(tmp_path / "toy.hdf5", columns(5000))
        running = [forked(read_through_the_cache, path, tmp_path / "cache", tmp_path / str(k)) for k in range(2)]
        for process in running:
            process.join(120)
        printed = [(tmp_path / str(k)).read_text().split() for k in range(2)]
        assert len({words[-1] for words in printed}) == 1
        assert sum("made" in words for words in printed) == 1  # the other waited for it
        assert {p.name for p in (tmp_path / "cache").iterdir()} == {"key", "key.lock"}


def read_through_the_cache(path, folder, said):
    with said.open("w") as file:

        def make():
            print("made", file=file)
            time.sleep(1)
            return d4rl.load(path, SPEC, "clip")

        print(float(cache.cached(folder, "key", make, lambda text: None).obs.double().sum()), file=file)


class TestMinari:
    @pytest.fixture(autouse=True)
    def here(self, tmp_path, monkeypatch):
        pytest.importorskip("minari", reason="minari is not installed: pip install 'minari[hdf5]'")
        monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))

    @pytest.mark.parametrize("target", ["minari:toy-v0", "minari:group/toy/x-v3", "minari:{folder}/toy-v1"])
    def test_round_trip_is_exact(self, recording, tmp_path, target):
        target = target.format(folder=tmp_path)
        folder = minari_writer.write(target, recording, SPEC, "a test", no_infos)
        assert minari_folder(target) == folder
        assert same(minari.load(folder, SPEC, READING), recording)
        assert not list(tmp_path.rglob("*.part"))

    def test_minari_itself_reads_it(self, recording):
        import minari as package

        minari_writer.write("minari:toy-v0", recording, SPEC, "a test", lambda a, b: {"qpos": np.arange(a, b)})
        found = package.load_dataset("toy-v0")
        assert found.total_steps == 60
        episodes = list(found.iterate_episodes())
        assert [len(e) for e in episodes] == (recording.ends - recording.starts + 1).tolist()
        assert len(episodes[1].observations) == len(episodes[1]) + 1
        assert episodes[1].infos["qpos"].tolist() == list(range(10, 26))
        assert episodes[0].terminations[-1]
        assert episodes[1].truncations[-1]

    def test_it_reads_what_minari_wrote(self, tmp_path):
        """A set of another's making: float64, observations as a dictionary, an episode without a flag at its end."""
        import gymnasium
        import minari as package
        from minari.data_collector import EpisodeBuffer

        rng = np.random.default_rng(0)
        made = [
            EpisodeBuffer(
                observations={"achieved_goal": rng.normal(size=(n + 1, 2)), "observation": rng.normal(size=(n + 1, 3))},
                actions=rng.uniform(-1, 1, (n, 2)), rewards=list(rng.normal(size=n)),
                terminations=[False] * (n - 1) + [end], truncations=[False] * n,
            )
            for n, end in ((7, True), (5, False))
        ]  # fmt: skip
        box = lambda n: gymnasium.spaces.Box(-9, 9, (n,), np.float64)  # noqa: E731
        package.create_dataset_from_buffers(
            "foreign-v0", made, observation_space=gymnasium.spaces.Dict(achieved_goal=box(2), observation=box(3)),
            action_space=box(2),
        )  # fmt: skip
        data = minari.load(minari_folder("minari:foreign-v0"), SPEC, READING)
        assert data.ends.tolist() == [6, 11]
        assert data.terminated.tolist() == [False] * 6 + [True] + [False] * 5
        expected = np.float32(made[0].observations["observation"])
        np.testing.assert_array_equal(data.obs[:7].numpy(), expected[:-1])
        np.testing.assert_array_equal(data.next_obs[:7].numpy(), expected[1:])
        assert data.has_successor.all()

    def test_nothing_is_downloaded(self, tmp_path):
        with pytest.raises(UserError, match="minari download mujoco/hopper/expert-v0"):
            minari_folder("minari:mujoco/hopper/expert-v0")

    def test_bad_sets_are_named(self, recording, tmp_path):
        folder = minari_writer.write("minari:toy-v0", recording, SPEC, "a test", no_infos)
        with pytest.raises(UserError, match="toy-v0 is there already: .* overwrite=true"):
            minari_writer.write("minari:toy-v0", recording, SPEC, "a test", no_infos)
        with pytest.raises(UserError, match="no name for a Minari dataset"):
            minari_writer.write("minari:toy", recording, SPEC, "a test", no_infos)
        path = folder / "data" / "metadata.json"
        metadata = json.loads(path.read_text())
        for change, sentence in (
            ({"total_steps": 10**15}, "which its files cannot hold"),
            ({"total_steps": 30}, "does not fit its metadata"),
            ({"total_episodes": 99}, "cannot be read"),
            ({"observation_space": None}, "cannot be read"),
        ):
            path.write_text(json.dumps(metadata | change))
            with pytest.raises(UserError, match=sentence):
                minari.load(folder, SPEC, READING)
        del metadata["observation_space"]
        path.write_text(json.dumps(metadata | {"env_spec": '{"id": "Evil-v0", "entry_point": "os:getcwd"}'}))
        with pytest.raises(UserError, match="does not describe"):
            minari.load(folder, SPEC, READING)
        path.write_text("[")
        with pytest.raises(UserError, match="cannot be read"):
            minari.load(folder, SPEC, READING)

    @pytest.mark.parametrize("key", ["observations", "actions", "terminations", "truncations"])
    def test_columns_out_of_step_are_named_with_their_episode(self, recording, key):
        folder = minari_writer.write("minari:toy-v0", recording, SPEC, "a test", no_infos)
        with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
            values = file[f"episode_2/{key}"][:]
            del file[f"episode_2/{key}"]
            file[f"episode_2/{key}"] = values[:-1]
        steps = len(values) - (key == "observations")
        sentence = rf"Episode 2 \(counted from 0\) of .* has {steps} rewards but {len(values) - 1} {key} instead of {len(values)}"
        with pytest.raises(UserError, match=sentence):
            minari.load(folder, SPEC, READING)

    def test_links_in_it_are_not_followed(self, recording, tmp_path):
        folder = minari_writer.write("minari:toy-v0", recording, SPEC, "a test", no_infos)
        other = save(tmp_path / "other.hdf5", {"rewards": np.zeros(10)})
        with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
            del file["episode_0/rewards"]
            file["episode_0/rewards"] = h5py.ExternalLink(str(other), "rewards")
        with pytest.raises(UserError, match=r"'episode_0/rewards' .* is a link"):
            minari.load(folder, SPEC, READING)

    def test_successors_that_minari_cannot_hold(self, tmp_path):
        raw = columns()
        raw["next_observations"][3] += 1
        data = d4rl.load(save(tmp_path / "toy.hdf5", raw), SPEC, "clip")
        with pytest.raises(UserError, match="first at row 3: Minari cannot hold"):
            minari_writer.write("minari:toy-v0", data, SPEC, "a test", no_infos)


class FakeEnvironment:
    def __init__(self, dataset):
        self.dataset = dataset

    def get_dataset(self, h5path=None):
        if self.dataset is None:
            raise OSError("HTTP Error 404")
        return {**self.dataset, "metadata/algorithm": b"sac"}


@pytest.fixture
def old_package(monkeypatch):
    """``gym`` and ``d4rl`` with the interface of the real ones."""
    known = {"toy-x-v0": columns(), "empty-v0": None}
    gym = types.ModuleType("gym")
    gym.make = lambda name: FakeEnvironment(known[name])
    monkeypatch.setitem(sys.modules, "gym", gym)
    monkeypatch.setitem(sys.modules, "d4rl", types.ModuleType("d4rl"))
    return known


class TestLegacy:
    def test_same_recording_as_the_file(self, old_package, tmp_path):
        found = legacy.fetch(SPEC)
        assert same(legacy.load(found, SPEC, READING), d4rl.load(save(tmp_path / "x.hdf5", columns()), SPEC, "clip"))
        label = legacy.provenance(found, SPEC)["label"]
        assert label.startswith("toy-x-v0 (through the d4rl package, unverified, sha256 of arrays ")
        np.testing.assert_array_equal(old_package["toy-x-v0"]["actions"], columns()["actions"])

    def test_bad_arrays_are_named(self, old_package):
        old_package["toy-x-v0"]["rewards"] = np.array([None] * 60)
        with pytest.raises(UserError, match="'rewards' of the d4rl package holds object"):
            legacy.load(legacy.fetch(SPEC), SPEC, READING)

    def test_package_that_fails_is_a_sentence(self, old_package, monkeypatch):
        empty = EnvSpec(**{**vars(SPEC), "d4rl_id": "empty-v0"})
        with pytest.raises(UserError, match="has no data for empty-v0 .OSError: HTTP Error 404"):
            legacy.fetch(empty)
        monkeypatch.setitem(sys.modules, "d4rl", None)
        with pytest.raises(UserError, match=r"needs the old d4rl package.*data.source=<path>"):
            legacy.fetch(SPEC)


HOPPER = {"width": 11, "actions": 3}


def config(tmp_path, source, *more):
    chosen = ["env=hopper-medium", f'data.source="{source}"', f'data.cache="{tmp_path / "cache"}"', *more]
    return compose_config("prior", [*chosen, "data.horizon=4"])


class TestCommand:
    """The verbs' way to the data."""

    def test_every_source_gives_the_same(self, tmp_path, monkeypatch):
        pytest.importorskip("minari", reason="minari is not installed: pip install 'minari[hdf5]'")
        path = save(tmp_path / "toy.hdf5", columns(**HOPPER))
        there, back = tmp_path / "sets" / "toy-v0", tmp_path / "back.hdf5"
        for source, out in ((path, f"minari:{there}"), (f"minari:{there}", back)):
            convert(compose_config("convert", ["env=hopper-medium", f'data.source="{source}"', f'out="{out}"']), [])
        gym = types.ModuleType("gym")
        gym.make = lambda name: FakeEnvironment(columns(**HOPPER))
        monkeypatch.setitem(sys.modules, "gym", gym)
        monkeypatch.setitem(sys.modules, "d4rl", types.ModuleType("d4rl"))
        env = build(config(tmp_path, path).env)
        expected = d4rl.load(path, env, "clip")
        for source in (path, path, f"minari:{there}", back, PACKAGE):
            assert same(read_recording(config(tmp_path, source), env)[0], expected), source

    def test_cache_knows_the_settings(self, tmp_path):
        raw = columns(**HOPPER)
        raw["actions"][3] = 2
        path = save(tmp_path / "toy.hdf5", raw)
        assert open_dataset(config(tmp_path, path)).recording.clipped_actions == 3
        with pytest.raises(UserError, match="first at row 3"):
            open_dataset(config(tmp_path, path, "data.out_of_box=error"))
        with h5py.File(path, "a") as file:
            file["rewards"][5] = 77
        assert open_dataset(config(tmp_path, path)).recording.reward[5] == 77
        assert len(list((tmp_path / "cache").glob("*/index.json"))) == 2

    def test_cache_may_be_switched_off(self, tmp_path):
        path = save(tmp_path / "toy.hdf5", columns(**HOPPER))
        dataset = open_dataset(config(tmp_path, path, "data.cache=null"))
        assert len(dataset.transitions) == 60
        assert not (tmp_path / "cache").exists()

    def test_default_cache_honours_xdg(self, tmp_path, monkeypatch):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        assert compose_config("prior", []).data.cache == f"{tmp_path}/pgd_lightning"

    def test_convert_does_not_overwrite(self, tmp_path):
        path = save(tmp_path / "toy.hdf5", columns(**HOPPER))
        for out, sentence in ((path, "is there already"), ("x.npz", "neither a .hdf5 file")):
            with pytest.raises(UserError, match=sentence):
                convert(compose_config("convert", ["env=hopper-medium", f'data.source="{path}"', f'out="{out}"']), [])


def test_importing_the_data_layer_loads_no_framework():
    rooms = "data, data.d4rl, data.windows, data.mixing, data.d4rl.cache, data.minari, data.d4rl.package, data.summary"
    modules = ", ".join(f"pgd_lightning.{room}" for room in rooms.split(", "))
    heavy = (
        "{'lightning', 'pytorch_lightning', 'hydra', 'omegaconf', 'gymnasium', 'mujoco', 'minari', 'torchrl', 'wandb'}"
    )
    code = f"import sys, {modules}\nprint({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "set()"
