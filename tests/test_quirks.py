"""What is peculiar to each family of D4RL's files, each on a file made by hand, and what the loader says about it."""

from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch

from pgd_lightning.data import d4rl
from pgd_lightning.data.environments import environment
from pgd_lightning.environment import DataFile, EnvSpec
from pgd_lightning.errors import UserError

DIMS = {
    "hopper": (11, 3, 1000), "halfcheetah": (17, 6, 1000), "ant": (111, 8, 1000), "maze2d-umaze": (4, 2, 300),
    "antmaze-umaze": (29, 8, 700), "door": (39, 28, 200), "pen": (45, 24, 100), "kitchen": (60, 9, 280),
    "kitchen-mixed": (60, 9, 280),
}  # fmt: skip
NEVER = {"halfcheetah", "maze2d-umaze", "door"}  # terminates


def spec(task, horizon=None):
    obs, action, steps = DIMS[task]
    return EnvSpec(
        f"{task}-x",
        f"{task}-x-v0",
        task,
        "x",
        obs,
        action,
        horizon or steps,
        0.0,
        1000.0,
        DataFile("x.hdf5", None, None),
        "today",
        task not in NEVER,
    )


def rows(task, number, **changes):
    """Columns of ``number`` random rows without any flag; None as a change leaves a column out."""
    obs, action, _ = DIMS[task]
    rng = np.random.default_rng(0)
    made = {
        "observations": rng.normal(size=(number, obs)).astype(np.float32),
        "actions": rng.uniform(-1, 1, (number, action)).astype(np.float32),
        "rewards": np.arange(number, dtype=np.float32),
        "terminals": np.zeros(number, dtype=bool),
        "timeouts": np.zeros(number, dtype=bool),
    }
    return {key: values for key, values in (made | changes).items() if values is not None}


def marked(number, *at):
    flags = np.zeros(number, dtype=bool)
    flags[list(at)] = True
    return flags


@pytest.fixture
def load(tmp_path):
    def read(task, columns, horizon=None, env=None, **choices):
        path = tmp_path / "file.hdf5"
        with h5py.File(path, "w") as file:
            for key, values in columns.items():
                file[key] = values
        return d4rl.load(path, env or spec(task, horizon), "clip", **choices)

    return read


def said(recording, words):
    return [note for note in recording.notes if words in note]


def shifted(obs, ends, offset=100.0):
    """Successors that are the following row, except at ``ends``."""
    after = np.concatenate([obs[1:], obs[-1:]])
    after[[*ends, len(obs) - 1]] += offset
    return after


def test_timeouts_of_replay_files_may_come_early(load):
    raw = rows("hopper", 30, timeouts=marked(30, 9, 14, 24, 29), terminals=marked(30, 19))
    data = load("hopper", raw, horizon=10)
    assert (data.ends - data.starts + 1).tolist() == [10, 5, 5, 5, 5]
    assert said(data, "2 of 4 timeouts come before step 10")  # the last one may be the file's own end
    full = load("hopper", rows("hopper", 30, timeouts=marked(30, 9, 19, 29)), horizon=10)
    assert not full.notes


def test_unflagged_tail_is_kept_as_an_episode_that_was_cut(load):
    data = load("hopper", rows("hopper", 20, terminals=marked(20, 4, 15)))
    assert data.ends.tolist() == [4, 15, 19]
    assert data.truncated.nonzero().flatten().tolist() == [19]
    assert said(data, "last 4 rows have neither a terminal nor a timeout")


def test_halfcheetah_never_terminates(load):
    data = load("halfcheetah", rows("halfcheetah", 40, timeouts=marked(40, 19, 39)), horizon=20)
    assert not data.terminated.any()
    assert len(data.steps()) == 38  # no successor at the two ends
    assert not data.notes


class TestWithoutTimeouts:
    """Gym files of v0."""

    def test_recorded_successors_tell_where_episodes_end(self, load):
        raw = rows("hopper", 30, timeouts=None, terminals=marked(30, 11))
        raw["next_observations"] = shifted(raw["observations"], [5, 11, 20])
        data = load("hopper", raw, horizon=10)
        assert data.ends.tolist() == [5, 11, 20, 29]
        assert data.terminated.nonzero().flatten().tolist() == [11]
        assert said(data, "2 ends found where next_observations is not the following row")
        np.testing.assert_array_equal(data.next_obs.numpy(), raw["next_observations"])

    def test_terminals_alone_do_where_no_stretch_is_too_long(self, load):
        data = load("hopper", rows("hopper", 30, timeouts=None, terminals=marked(30, 8, 17, 27)), horizon=10)
        assert data.ends.tolist() == [8, 17, 27, 29]
        assert said(data, "end at terminals alone")

    def test_else_the_file_is_refused_or_cut_by_count(self, load):
        raw = rows("hopper", 40, timeouts=None, terminals=marked(40, 4))
        with pytest.raises(UserError, match=r"35 rows without a terminal where 10 .* data.missing_timeouts=horizon"):
            load("hopper", raw, horizon=10)
        data = load("hopper", raw, horizon=10, missing_timeouts="horizon")
        assert data.ends.tolist() == [4, 14, 24, 34, 39]
        assert said(data, "3 cuts after 10 rows are guesses")

    def test_noisy_successors_are_no_ends(self, load):
        raw = rows("hopper", 30, timeouts=None, terminals=marked(30, 11))
        raw["next_observations"] = raw["observations"] + 1
        with pytest.raises(UserError, match="where its episodes end"):
            load("hopper", raw, horizon=10)

    def test_unknown_choice(self, load):
        with pytest.raises(UserError, match="missing_timeouts=guess is neither error nor horizon"):
            load("hopper", rows("hopper", 5), missing_timeouts="guess")


def test_successors_made_by_shifting_are_forgotten_at_ends(load):
    raw = rows("hopper", 30, terminals=marked(30, 4, 12), timeouts=marked(30, 22, 29))
    raw["next_observations"] = np.concatenate([raw["observations"][1:], raw["observations"][:1]])
    data = load("hopper", raw, horizon=10)
    assert said(data, "made by shifting")
    steps = data.transitions()
    assert len(steps) == 28  # both timeouts are out
    inside = [i for i in range(30) if i not in (4, 12, 22, 29)]
    np.testing.assert_array_equal(data.next_obs[inside].numpy(), raw["observations"][np.array(inside) + 1])
    for end in (4, 12, 22, 29):  # never the next episode's start
        np.testing.assert_array_equal(data.next_obs[end].numpy(), raw["observations"][end])


@pytest.mark.parametrize("late", [0, 1])
def test_ends_that_are_flagged_one_row_late_are_said(load, late):
    """What the step of an episode's last row led to is recorded, and is not the row below."""
    raw, last = rows("hopper", 30), (4, 12, 22)
    raw["next_observations"] = np.concatenate([raw["observations"][1:], raw["observations"][:1]])
    raw["next_observations"][list(last)] += 1
    raw["terminals"] = marked(30, *(end + late for end in last))
    assert bool(said(load("hopper", raw), "3 of 3 episode boundaries seem to be flagged one row late")) == bool(late)


def test_a_replay_file_may_go_on_after_an_early_timeout(load):
    raw = rows("hopper", 30, terminals=marked(30, 12), timeouts=marked(30, 5, 29))
    raw["next_observations"] = shifted(raw["observations"], [12])  # row 5's successor is row 6
    data = load("hopper", raw, horizon=1000)
    assert data.has_successor.all()
    assert not said(data, "shifting")


class TestTimeLimitsAmongTerminals:
    """D4RL sets the timeout alone at the last step, Gymnasium both flags, old Gym's ``done`` the terminal alone."""

    @pytest.mark.parametrize("task", sorted(NEVER))
    @pytest.mark.parametrize("ends", [(9, 19), (3, 19)])
    def test_a_task_that_never_terminates_has_none(self, load, task, ends):
        raw = rows(task, 20, terminals=marked(20, *ends), timeouts=None, rewards=np.zeros(20))
        each = ", each after 10 rows" if ends == (9, 19) else ""
        sentence = f"there are 2 terminals{each}, but {task} never ends .* Set data.terminals=timeouts"
        with pytest.raises(UserError, match=sentence):
            load(task, raw)
        data = load(task, raw, terminals="timeouts")
        assert not data.terminated.any()
        assert data.truncated.nonzero().flatten().tolist() == [*ends]
        assert said(data, "2 of 2 terminals count as timeouts")
        kept = load(task, raw, terminals="recorded")
        assert kept.terminated.sum() == 2
        assert said(kept, f"{task} never ends before its time limit: if they are time limits, set data.terminals")

    def test_both_flags_in_some_episodes_leave_the_rest_to_be_judged(self, load):
        raw = rows("halfcheetah", 20, terminals=marked(20, 9, 19), timeouts=marked(20, 9))
        with pytest.raises(UserError, match="there is 1 terminal, but halfcheetah"):
            load("halfcheetah", raw)
        raw["timeouts"][19] = True
        assert said(load("halfcheetah", raw), "2 rows are a terminal and a timeout: read as timeouts alone")

    def test_all_terminals_at_the_limit_are_refused(self, load):
        raw = rows("hopper", 20, terminals=marked(20, 9, 19), timeouts=None)
        with pytest.raises(UserError, match="2 of 2 terminals come exactly at the limit of 10 steps"):
            load("hopper", raw, horizon=10)
        assert load("hopper", raw, horizon=10, terminals="timeouts").truncated.sum() == 2
        assert load("hopper", raw, horizon=10, terminals="recorded").terminated.sum() == 2
        assert load("hopper", raw | {"timeouts": marked(20, 9, 19)}, horizon=10).truncated.sum() == 2

    def test_some_at_the_limit_are_said_and_those_alone_undone(self, load):
        raw = rows("hopper", 40, terminals=marked(40, 4, 14, 24, 30), timeouts=None)
        data = load("hopper", raw, horizon=10)
        assert data.terminated.sum() == 4
        assert said(data, "2 of 4 terminals come exactly at the limit of 10 steps: if they are time limits, set data.t")
        data = load("hopper", raw, horizon=10, terminals="timeouts")
        assert data.terminated.nonzero().flatten().tolist() == [4, 30]
        assert data.truncated.nonzero().flatten().tolist() == [14, 24, 39]
        assert said(data, "2 of 4 terminals count as timeouts")

    def test_falls_alone_are_nothing_to_speak_of(self, load):
        raw = rows("hopper", 30, terminals=marked(30, 4, 14, 23), timeouts=marked(30, 29))
        assert not any("terminals" in note for note in load("hopper", raw, horizon=10 + 90).notes)

    def test_a_constant_length_below_the_limit_is_said(self, load):
        raw = rows("hopper", 30, terminals=marked(30, 9, 19, 29), timeouts=None)
        data = load("hopper", raw)
        assert data.terminated.sum() == 3
        assert said(data, "all 3 terminals come after exactly 10 rows: if they are time limits, set")
        assert load("hopper", raw, terminals="timeouts").truncated.sum() == 3
        alone = load("hopper", rows("hopper", 20, terminals=marked(20, 9), timeouts=None))
        assert not said(alone, "exactly")

    @pytest.mark.parametrize("flag", ["terminals", "timeouts"])
    def test_one_row_too_many_for_each_episode_is_said(self, load, flag):
        data = load("hopper", rows("hopper", 102, **{flag: marked(102, 50, 101)}, rewards=np.ones(102)))
        assert said(data, "2 of 2 episodes have 51 rows, as if 50 steps were stored with their last observation")

    def test_so_are_limits_with_one_row_too_many(self, load):
        raw = rows("hopper", 40, terminals=marked(40, 4, 15, 26, 30), timeouts=None)
        data = load("hopper", raw, horizon=10)
        assert said(data, "2 of 4 terminals come exactly at the limit of 10 steps or one row later")
        assert said(data, "2 of 4 episodes have 11 rows, as if 10 steps were stored")
        assert load("hopper", raw, horizon=10, terminals="timeouts").terminated.nonzero().flatten().tolist() == [4, 30]

    def test_successors_made_by_shifting_are_forgotten_there_too(self, load):
        raw = rows("hopper", 24, terminals=marked(24, 5, 11, 17, 23), timeouts=None)
        raw["next_observations"] = np.concatenate([raw["observations"][1:], raw["observations"][:1]])
        data = load("hopper", raw, terminals="timeouts")
        assert said(data, "made by shifting")
        assert not data.has_successor[data.ends].any()

    def test_unknown_choice(self, load):
        with pytest.raises(UserError, match="terminals=no is neither checked nor timeouts nor recorded"):
            load("hopper", rows("hopper", 5), terminals="no")


@pytest.mark.parametrize(
    ("name", "reward", "scores"),
    [("antmaze-umaze", -1, "-3000 to -3000"), ("hopper-medium", 1000, "922.403 to 922.403"), ("pen-human", -40, None)],
)
def test_returns_that_the_task_cannot_reach_are_said(load, name, reward, scores):
    env = environment(name, "today")
    raw = rows(env.task, 60, timeouts=marked(60, 29, 59), rewards=np.full(60, reward))
    raw["observations"][:] = 0  # no ant jumps
    data = load(env.task, raw, env=env)
    expected = [f"returns of {reward * 30} to {reward * 30} are scores of {scores}, which {env.task} cannot reach"]
    assert [note.partition(":")[0] for note in said(data, "cannot reach")] == (expected if scores else [])


def test_without_a_known_limit_returns_are_what_they_are_and_lengths_say_nothing(load):
    """env=none: there is nobody to say how long an episode may be."""
    env = replace(spec("hopper"), task="none", max_episode_steps=None, ref_min_score=0.0, ref_max_score=1000.0)
    ends = np.cumsum([51, 151, 51, 80, 151, 30]) - 1
    raw = rows("hopper", ends[-1] + 1, timeouts=marked(ends[-1] + 1, *ends), rewards=np.full(ends[-1] + 1, 100.0))
    data = load("none", raw, env=env)
    assert said(data, "returns of 3000 to 15100 are scores of 300 to 1510, which none cannot reach")
    assert not said(data, "as if")


@pytest.mark.parametrize(("name", "reward"), [("maze2d-umaze", 1), ("kitchen-mixed", 4), ("antmaze-umaze", 0)])
def test_ordinary_rewards_are_not(load, name, reward):
    """maze2d without timeouts is a single episode, many times as long as the limit; kitchen's data count tasks."""
    env = environment(name, "today")
    raw = rows(env.task, 3000, rewards=np.full(3000, reward), timeouts=None)
    assert not said(load(env.task, raw, env=env), "cannot reach")


class TestMaze2d:
    def test_timeouts_are_navigation_goals(self, load):
        data = load("maze2d-umaze", rows("maze2d-umaze", 30, timeouts=marked(30, 3, 17)))
        assert data.ends.tolist() == [3, 17, 29]
        assert said(data, "navigation goals")
        assert len(data.steps()) == 27

    def test_rewards_stand_a_row_late(self, load):
        raw = rows("maze2d-umaze", 30, timeouts=marked(30, 3, 17))
        data = load("maze2d-umaze", raw)
        assert data.reward.tolist() == list(range(30))
        assert said(data, "computed from its own row's observation")
        aligned = load("maze2d-umaze", raw, rewards="aligned")
        assert aligned.reward.tolist() == [*range(1, 30), 29]
        assert said(aligned, "were moved one row up")
        assert not said(aligned, "its own row's")

    def test_alignment_is_for_maze2d(self, load):
        with pytest.raises(UserError, match="is for maze2d files"):
            load("hopper", rows("hopper", 5), rewards="aligned")

    def test_stale_rows_are_counted(self, load):
        raw = rows("maze2d-umaze", 30, timeouts=marked(30, 3, 17))
        raw |= {"infos/qpos": raw["observations"][:, :2].copy(), "infos/qvel": raw["observations"][:, 2:].copy()}
        assert not said(load("maze2d-umaze", raw), "repeat the previous")
        raw["observations"][[4, 18]] = raw["observations"][[3, 17]]
        assert said(load("maze2d-umaze", raw), "2 rows repeat the previous observation")


class TestAntmaze:
    @staticmethod
    def walk(number, **changes):
        """An ant that takes small steps."""
        raw = rows("antmaze-umaze", number, **changes)
        raw["observations"][:, :2] = np.arange(number)[:, None] * 0.1
        return raw

    def test_clusters_of_terminals_are_said_aloud(self, load):
        data = load("antmaze-umaze", self.walk(30, terminals=marked(30, 5, 6, 7, 20), timeouts=marked(30, 14, 29)))
        assert data.ends.tolist() == [5, 6, 7, 14, 20, 29]  # the cut of every loader: terminals | timeouts
        assert said(data, "2 paths; the ant runs on after a terminal")
        assert said(data, "2 episodes have one row")
        single = load("antmaze-umaze", self.walk(30, terminals=marked(30, 5, 20), timeouts=marked(30, 14, 29)))
        assert not single.notes

    def test_the_last_row_of_a_path_was_judged_by_the_next_start(self, load):
        data = load("antmaze-umaze", self.walk(30, terminals=marked(30, 14), timeouts=marked(30, 14, 29)))
        assert not data.terminated.any()
        assert data.truncated[14]
        assert said(data, "1 terminals at the end of a path")

    def test_a_jump_ends_a_path(self, load):
        raw = self.walk(30, timeouts=marked(30, 14, 29))  # v0: flag at 14, jump after 18
        raw["observations"][19:, :2] += 8
        data = load("antmaze-umaze", raw)
        assert data.ends.tolist() == [14, 18, 29]
        assert not data.has_successor[18]
        assert said(data, "1 jumps of the ant")


def test_adroit_has_no_successors_and_long_demonstrations(load):
    data = load("pen", rows("pen", 30, terminals=marked(30, 7), timeouts=marked(30, 20, 29)), horizon=10)
    steps = data.transitions()
    assert len(steps) == 28  # rows 20 and 29 are dropped, the terminal one is kept
    assert steps.terminated.nonzero().flatten().tolist() == [7]
    assert said(data, "1 episodes are longer than the horizon of 10")


def test_kitchen_has_float_terminals_and_counts_tasks(load):
    ends = marked(30, 9, 29).astype(np.float32)
    data = load("kitchen", rows("kitchen", 30, terminals=ends, timeouts=None, rewards=np.repeat([0, 1, 4], 10)))
    assert data.ends.tolist() == [9, 29]
    assert data.terminated.dtype == torch.bool
    assert said(data, "rewards count the tasks completed")
    assert said(data, "'terminals' mark where a demonstration ends")
    assert not said(data, "neither a terminal")


def test_flags_are_0_or_1(load):
    ends = marked(30, 9, 29).astype(np.float32)
    ends[4] = 0.5
    with pytest.raises(UserError, match="'terminals' .* other numbers than 0 and 1"):
        load("kitchen", rows("kitchen", 30, terminals=ends, timeouts=None))


class TestAnt:
    def test_27_values_get_their_contact_forces(self, load):
        raw = rows("ant", 30, timeouts=marked(30, 9, 29))
        raw["observations"][:, 27:] = 0
        raw["next_observations"] = shifted(raw["observations"], [9], offset=0.5)[:, :27]
        narrow = raw | {"observations": raw["observations"][:, :27]}
        data = load("ant", narrow)
        assert data.obs.shape == (30, 111)
        np.testing.assert_array_equal(data.obs.numpy(), raw["observations"])
        assert (data.next_obs[:, 27:] == 0).all()
        np.testing.assert_array_equal(data.next_obs[:, :27].numpy(), raw["next_observations"])
        assert said(data, "27 values: padded")

    def test_forces_that_are_not_zero_are_told(self, load):
        raw = rows("ant", 30, timeouts=marked(30, 9, 29))
        raw["observations"][:, 27:] = 0
        assert not load("ant", raw).notes[1:]  # only the early timeout
        raw["observations"][3:6, 60] = 1
        assert said(load("ant", raw), "3 rows have contact forces")

    def test_other_widths_are_refused(self, load):
        raw = rows("ant", 30)
        raw["observations"] = raw["observations"][:, :105]
        with pytest.raises(UserError, match=r"'observations' .* is this the right env"):
            load("ant", raw)
