"""Windows against the official loader's golden cases, and their promises on random recordings."""

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pgd_lightning.data.recording import Recording
from pgd_lightning.data.windows import Windows, left_out, split_padded, split_windows, window_starts
from pgd_lightning.errors import UserError
from pgd_lightning.generators.recorded import Recorded
from pgd_lightning.imagination.buffer import EpisodeBuffer
from pgd_lightning.randomness import stream


def flags(episodes: list[tuple[int, str]], tail: int = 0):
    terminated, truncated = [], []
    for length, end in episodes:
        terminated += [False] * (length - 1) + [end == "terminal"]
        truncated += [False] * (length - 1) + [end == "timeout"]
    return torch.tensor(terminated + [False] * tail), torch.tensor(truncated + [False] * tail)


FOUR = [(10, "terminal"), (7, "timeout"), (12, "terminal"), (5, "terminal")]


@pytest.mark.parametrize(
    ("episodes", "tail", "horizon", "stride", "starts", "terminals"),
    [(FOUR, 3, 4, 3, [0, 3, 6, 10, 12, 17, 18, 21, 24, 25, 29, 30], [6, 25, 30]),
     (FOUR, 0, 4, 3, [0, 3, 6, 10, 12, 17, 18, 21, 24, 25, 29, 30], [6, 25, 30]),
     ([*FOUR[:3], (4, "")], 0, 4, 3, [0, 3, 6, 10, 12, 17, 18, 21, 24, 25, 29], [6, 25]),
     ([(9, "timeout")] * 3, 2, 4, 2, [0, 2, 4, 9, 11, 13, 18, 20, 22], []),
     ([(20, "terminal"), (15, "timeout"), (30, "terminal")], 1, 8, 8, [0, 8, 12, 20, 23, 35, 38, 46, 54, 57], [12, 57])],
)  # fmt: skip
def test_golden_starts(episodes, tail, horizon, stride, starts, terminals):
    terminated, truncated = flags(episodes, tail)
    found = window_starts(terminated, truncated, horizon, stride)
    assert found.tolist() == starts
    assert [s for s in starts if terminated[s + horizon - 1]] == terminals


@pytest.mark.parametrize(("episodes", "cut", "count"), [(1000, 1, 121_875), (950, 0, 115_781)])
def test_golden_counts(episodes, cut, count):
    terminated, truncated = flags([(1000, "timeout")] * episodes)
    rows = len(terminated) - cut
    assert len(window_starts(terminated[:rows], truncated[:rows], 32, 8)) == count


EPISODES = st.lists(st.tuples(st.integers(1, 12), st.sampled_from(["terminal", "timeout"])), min_size=1, max_size=8)


@given(EPISODES, st.integers(0, 5), st.integers(2, 6), st.integers(1, 4))
def test_no_window_contains_an_end_or_ends_in_a_timeout(episodes, tail, horizon, stride):
    terminated, truncated = flags(episodes, tail)
    done = terminated | truncated
    found = window_starts(terminated, truncated, horizon, stride).tolist()
    for start in found:
        assert not done[start : start + horizon - 1].any()
        assert not truncated[start + horizon - 1]
    first = 0
    for length, end in episodes:
        if length > horizon or (length == horizon and end == "terminal"):
            assert first in found
        if length >= horizon and end == "terminal":
            assert first + length - horizon in found
        first += length


def recording(episodes) -> Recording:
    terminated, truncated = flags(episodes)
    num = len(terminated)
    obs = torch.arange(float(num)).unsqueeze(-1)
    return Recording(
        obs,
        torch.zeros(num, 1),
        torch.arange(float(num)) + 1,
        terminated,
        truncated,
        torch.ones(num, dtype=torch.bool),
        torch.zeros(0, dtype=torch.long),
        obs[:0],
        0,
    )


@given(EPISODES.filter(lambda e: max(length for length, _ in e) > 6), st.integers(0, 100))
def test_split_keeps_whole_episodes_apart(episodes, seed):
    data = recording(episodes)
    try:
        train, validation = split_windows(data, 3, 1, 0.3, seed)
    except UserError:
        return  # every long episode was held out
    owner = torch.repeat_interleave(torch.arange(len(data.ends)), data.ends - data.starts + 1)
    ours = {int(e) for batch in train.batches(5) for e in owner[batch.obs.long().flatten()]}
    theirs = (
        {int(e) for batch in validation.batches(5) for e in owner[batch.obs.long().flatten()]} if validation else set()
    )
    assert not ours & theirs
    for batch in train.batches(5):
        assert (batch.obs[:, 1:] - batch.obs[:, :-1] == 1).all()


def test_too_short_episodes_are_named():
    with pytest.raises(UserError, match=r"has 9 .* set data.horizon to 8 or less\.$"):
        split_windows(recording([(9, "terminal")] * 3), 32, 8, 0.05, 0)[0].required()
    with pytest.raises(UserError, match="take a file with longer episodes"):
        split_windows(recording([(2, "terminal")] * 3), 4, 1, 0, 0)[0].required()


def test_the_only_long_episode_may_be_held_out():
    data = recording([(5, "terminal"), (40, "terminal")])
    seed = next(s for s in range(50) if torch.randperm(2, generator=stream(s, "validation"))[0] == 1)
    with pytest.raises(UserError, match=r"to train on has 5 .* data.validation=0 to train on the one with 40 rows"):
        split_windows(data, 32, 8, 0.05, seed)[0].required()
    assert len(split_windows(data, 32, 8, 0, seed)[0]) > 0


@given(EPISODES, st.integers(2, 6), st.integers(1, 4))
def test_what_lies_in_no_window_is_said_with_a_horizon_that_fits(episodes, horizon, stride):
    data = recording(episodes)
    windows = Windows(data, window_starts(data.terminated, data.truncated, horizon, stride), horizon)
    inside = {int(row) for start in windows.starts for row in range(start, start + horizon)}
    rows = (len(data) - len(inside)) / len(data)
    terminals = {int(row) for row in data.terminated.nonzero().flatten()}
    lost = len(terminals - inside)
    sentence = left_out(data, horizon, [windows])
    if rows <= 0.05 and lost <= 0.05 * len(terminals):
        assert sentence is None
        return
    of = f" and {lost} of {len(terminals)} terminals" if terminals else ""
    assert sentence.startswith(f"{rows:.0%} of the steps{of} are in no window of {horizon} steps: ")
    found = re.search(r"data\.horizon=(\d+)", sentence)
    if found:
        fits = int(found[1])
        assert 2 <= fits < horizon
        held = [(n, end == "terminal") for n, end in episodes if n - (end != "terminal") >= fits]
        assert sum(n for n, _ in held) >= 0.95 * len(data)
        assert sum(ended for _, ended in held) >= 0.95 * len(terminals)


def test_a_horizon_that_would_hold_rows_and_terminals():
    data = recording([(20, "terminal")] * 50 + [(200, "terminal")] * 2)
    windows, held_out = split_windows(data, 32, 8, 0.05, 0)
    assert held_out is None  # both of its episodes are too short
    assert left_out(data, 32, [windows]) == (
        "71% of the steps and 50 of 52 terminals are in no window of 32 steps: "
        "data.horizon=20 fits the episodes with 95% of the steps and of the terminals"
    )
    assert left_out(data, 20, split_windows(data, 20, 8, 0.05, 0)) is None
    single = recording([(1, "terminal")] * 30 + [(40, "timeout")] * 30)  # antmaze's clusters
    starts = window_starts(single.terminated, single.truncated, 32, 1)
    assert "30 of 30 terminals" in left_out(single, 32, [Windows(single, starts, 32)])
    assert left_out(single, 32, [Windows(single, starts, 32)]).endswith("a single step, which no horizon fits")


@pytest.mark.parametrize(("episodes", "held_out"), [(1, 0), (2, 1), (19, 1), (40, 2), (1000, 50)])
def test_share_of_episodes_held_out(episodes, held_out, capsys):
    train, validation = split_windows(recording([(6, "terminal")] * episodes), 6, 1, 0.05, 0)
    assert len(train) == episodes - held_out
    assert (len(validation) if validation else 0) == held_out
    assert ("none is held out" in capsys.readouterr().out) == (episodes == 1)


@given(EPISODES, st.integers(2, 5))
def test_padded_windows_run_past_terminals_and_not_past_cuts(episodes, horizon):
    data = recording(episodes)
    try:
        windows, none = split_padded(data, horizon, 0.0, 0)
    except UserError:
        assert all(length < (2 if end == "terminal" else horizon) for length, end in episodes)
        return
    assert none is None
    found = windows[torch.arange(len(windows))]
    expected = []
    for first, last in zip(data.starts.tolist(), data.ends.tolist(), strict=True):
        ends = bool(data.terminated[last])
        for start in range(first, last if ends else last - horizon + 2):
            rows = [min(row, last) for row in range(start, start + horizon)]
            beyond = torch.tensor([row > last for row in range(start, start + horizon)])
            expected.append((data.obs[rows], data.reward[rows] * ~beyond, data.terminated[rows] | beyond))
    obs, reward, terminated = (torch.stack(column) for column in zip(*expected, strict=True))
    assert torch.equal(found.obs, obs)
    assert torch.equal(found.reward, reward)
    assert torch.equal(found.terminated, terminated)
    rows = windows.rows[torch.arange(len(windows.rows))]
    assert torch.equal(rows.obs[:, 0], data.obs)


def test_padded_windows_of_an_episode_that_ends_are_the_buffers():
    data = recording([(12, "terminal"), (5, "terminal")])
    buffer = EpisodeBuffer(data.obs.shape[1], data.action.shape[1], 100)
    for row in range(len(data)):
        buffer.add(data.obs[row], data.action[row], float(data.reward[row]), bool(data.terminated[row]))
        if row in data.ends:
            buffer.end()
    windows, _ = split_padded(data, 4, 0.0, 0)
    assert len(windows) == int(buffer.starts(4).sum()) == 11 + 4
    ours = {tuple(w.reward.tolist()) for w in windows[torch.arange(len(windows))]}
    theirs = {tuple(w.reward.tolist()) for w in buffer.windows(2000, 4, torch.Generator().manual_seed(0))}
    assert ours == theirs


def test_padded_windows_hold_out_the_episodes_that_others_do():
    data = recording([(9, "terminal")] * 8)
    plain, padded = split_windows(data, 4, 1, 0.3, 5), split_padded(data, 4, 0.3, 5)
    for ours, theirs in zip(padded, plain, strict=True):
        episodes = {int((data.ends < start).sum()) for start in ours.starts}
        assert episodes == {int((data.ends < start).sum()) for start in theirs.starts}
    with pytest.raises(UserError, match="No window of 4 rows fits the 2 episodes"):
        split_padded(recording([(3, "timeout")] * 2), 4, 0.0, 0)


def test_recorded_windows_in_the_place_of_synthetic_ones_are_the_recordings():
    windows = Windows(recording([(12, "terminal")]), torch.tensor([0, 3, 7]), 4)
    drawn, again, other = (Recorded(windows).generate(None, torch.zeros(2, 50, 3), seed) for seed in (0, 0, 1))
    assert drawn.batch_size == (2, 50, 4)
    assert set(drawn.obs[..., 0, 0].flatten().tolist()) == {0, 3, 7}
    assert torch.equal(drawn.obs[..., 0] + 1, drawn.reward)
    assert torch.equal(drawn.obs[..., 1:, 0] - 1, drawn.obs[..., :-1, 0])
    assert torch.equal(drawn.obs, again.obs)
    assert not torch.equal(drawn.obs, other.obs)
