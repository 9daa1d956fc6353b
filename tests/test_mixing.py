"""Batches: exact shares, each seed's own rows, and the same stream whoever asks and whenever."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch
from helpers.streams import REAL, SYNTHETIC, Counter, run, steps
from hypothesis import given
from hypothesis import strategies as st
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from pgd_lightning.agents.bc import BC
from pgd_lightning.agents.seeds import stacked_learners
from pgd_lightning.data.mixing import WindowOrder, alternate, blend, real_batch
from pgd_lightning.data.modules import Share, SyntheticDataModule, SyntheticSettings, WindowDataModule, finite_only
from pgd_lightning.data.recording import Recording
from pgd_lightning.data.windows import Windows
from pgd_lightning.errors import UserError
from pgd_lightning.randomness import learner_seeds
from pgd_lightning.trajectory import Trajectory


@pytest.mark.parametrize(
    ("mixing", "updates", "times"), [("blend", 10**6, 9.45), ("blend", 5000, 4.73), ("alternate", 10**6, 5.04)]
)
def test_how_often_a_synthetic_step_is_drawn(mixing, updates, times):
    """With the published numbers, and in a run that ends before its first set does."""
    published = SyntheticSettings(mixing, 256, 240, 10_000, 8192, first_unguided=True, keep_terminal=False)
    assert published.drawn(updates, horizon=32) == pytest.approx(times, rel=1e-3)


@given(st.integers(0, 10**6))
def test_blend_holds_exactly_240_and_16(step):
    batch = blend(REAL, SYNTHETIC, step, size=256, share=240, seeds=range(3))
    assert batch.batch_size == (3, 256)
    assert (batch.reward >= 10_000).sum(1).tolist() == [240] * 3
    for s in range(3):  # each from its own pool
        drawn = batch.reward[s, :240]
        assert ((drawn >= 10_000 + 400 * s) & (drawn < 10_400 + 400 * s)).all()


def test_purely_synthetic_and_purely_real():
    assert (blend(REAL, SYNTHETIC, 0, 256, 256, range(3)).reward >= 10_000).all()
    assert (real_batch(REAL, range(3), 256, 0).reward < 10_000).all()


@given(st.integers(0, 1000))
def test_alternate_takes_turns(step):
    batch = alternate(REAL, SYNTHETIC, step, 64, 0, range(3))
    assert ((batch.reward >= 10_000) == bool(step % 2)).all()


def test_a_learner_draws_the_same_whoever_else_draws():
    """So that it does not matter how learners are spread over processes."""
    assert torch.equal(real_batch(REAL, [5, 6, 7], 64, step=9).reward[2], real_batch(REAL, [7], 64, step=9).reward[0])


@given(st.lists(st.integers(0, 2**31), min_size=2, max_size=6, unique=True), st.integers(1, 9))
def test_runs_of_different_seeds_share_no_learner(seeds, count):
    learners = [one for seed in seeds for one in learner_seeds(seed, range(count))]
    assert len(set(learners)) == len(seeds) * count
    assert [learner_seeds(seed, range(1)) for seed in seeds] == [[seed] for seed in seeds]


def test_runs_of_different_seeds_draw_other_batches_and_begin_with_other_weights():
    of = {seed: learner_seeds(seed, range(5)) for seed in (0, 1)}
    drawn = [tuple(row.tolist()) for seeds in of.values() for row in real_batch(REAL, seeds, 64, step=3).reward]
    assert len(set(drawn)) == 10
    stacked = [stacked_learners(lambda: BC(2, 1, [4]), seeds) for seeds in of.values()]
    weights = torch.cat([torch.cat([p.flatten(1) for p in learners.parameters()], 1) for learners in stacked])
    assert len(weights.unique(dim=0)) == 10


def test_batches_are_uniform():
    counts = torch.zeros(500)
    for step in range(400):
        counts += real_batch(REAL, [0], 256, step).reward[0].long().bincount(minlength=500)
    expected = 400 * 256 / 500
    assert ((counts - expected) ** 2 / expected).sum().item() == pytest.approx(500, abs=5 * 1000**0.5)


@given(st.integers(8, 60), st.integers(1, 8), st.integers(0, 5))
def test_window_order_passes_over_the_data(num, batch, seed):
    order, per_pass = WindowOrder(num, batch, seed), num // batch
    first = torch.cat([order[k] for k in range(per_pass)])
    second = torch.cat([order[k] for k in range(per_pass, 2 * per_pass)])
    assert len(set(first.tolist())) == len(first) == per_pass * batch
    assert len(set(second.tolist())) == len(second)
    assert torch.equal(WindowOrder(num, batch, seed)[per_pass], order[per_pass])


def test_non_finite_steps_are_replaced_and_counted(capsys):
    made = steps(2, 50, mark=0)
    made.obs[0, 3, 1] = float("nan")
    made.reward[1, 7] = float("inf")
    mended = finite_only(made, at=10)
    assert mended.obs.isfinite().all()
    assert mended.reward.isfinite().all()
    assert mended.batch_size == (2, 50)
    assert "2 of 100" in capsys.readouterr().out
    made.obs[0] = float("nan")
    with pytest.raises(UserError, match="guidance.* without guidance, look at process"):
        finite_only(made, at=10)


def test_one_generation_a_lifetime_with_the_policy_of_that_moment(tmp_path):
    _, generator = run(tmp_path, 35)
    assert generator.seen == [-1, 10, 20, 30]
    _, generator = run(tmp_path, 15, first_unguided=False)
    assert generator.seen == [0, 10]


@pytest.mark.parametrize("at", [5, 10, 15, 20])
def test_resumed_run_sees_the_same_batches(tmp_path, at):
    whole, _ = run(tmp_path, 30)
    resumed, generator = run(tmp_path, 30, resume=tmp_path / f"step={at}.ckpt")
    assert len(resumed.batches) == 30 - at
    for ours, theirs in zip(whole.batches[at:], resumed.batches, strict=True):
        assert torch.equal(ours, theirs)
    assert generator.seen == [k for k in (10, 20) if k >= at]  # a set in mid-life is not generated again


def rows(num: int) -> Recording:
    """A recording whose reward is the row's number."""
    off = torch.zeros(num, dtype=torch.bool)
    zeros = torch.zeros(num, 1)
    none = torch.zeros(0, dtype=torch.long)
    return Recording(zeros, zeros, torch.arange(float(num)), off, off, ~off, none, zeros[:0], 0)


def fit_windows(tmp_path, resume=None):
    """23 batches of 4 out of 30 windows: three passes and a part of a fourth, with validation in between."""
    module = Counter()
    module.validation_step = lambda batch, batch_idx: None
    train, held_out = Windows(rows(33), torch.arange(30), 4), Windows(rows(9), torch.arange(5), 4)
    trainer = Trainer(
        max_steps=23, max_epochs=-1, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False, val_check_interval=6, check_val_every_n_epoch=None, num_sanity_val_steps=0,
        callbacks=[ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)],
    )  # fmt: skip
    trainer.fit(module, WindowDataModule(train, held_out, 4, 0, 23), ckpt_path=resume, weights_only=True)
    return [batch[:, 0].tolist() for batch in module.batches]


def test_resumed_prior_sees_the_windows_of_the_uninterrupted_one(tmp_path):
    whole = fit_windows(tmp_path)
    assert len(whole) == 23
    assert len({w for batch in whole[:7] for w in batch}) == 28  # a pass of 7 batches repeats nothing
    for at in (1, 6, 7, 13, 22):
        assert fit_windows(tmp_path / "again", resume=tmp_path / f"step={at}.ckpt") == whole[at:]


class Echo:
    """Windows whose rewards are their starts' first observation; it notes which starts and seeds it was given."""

    def __init__(self):
        self.starts, self.seeds = [], []

    def generate(self, policy, starts, seed):
        self.starts.append(starts)
        self.seeds.append(seed)
        rows = starts.unsqueeze(2).expand(-1, -1, 4, -1)
        size = rows.shape[:-1]
        return Trajectory(
            obs=rows, action=torch.zeros(*size, 1), reward=rows[..., 0], terminated=torch.zeros(size, dtype=torch.bool),
            batch_size=size,
        )  # fmt: skip


def shared(share, echo, **changes):
    data = REAL.clone()
    data.obs = torch.stack([data.reward, -data.reward], dim=-1)
    settings = {"batch_size": 16, "synthetic_batch": 12, "num_windows": 10} | changes
    settings = SyntheticSettings("blend", **settings, lifetime=10, first_unguided=True, keep_terminal=False)
    return SyntheticDataModule(data, echo, settings, seeds=[0], total_steps=20, share=share)


def test_processes_that_share_rows_make_a_part_of_each_set_and_take_a_part_of_each_batch():
    parts, everyone = [None, None], Barrier(2)

    def gathered_by(number):
        def gathered(mine):
            parts[number] = mine
            everyone.wait(timeout=20)
            return list(parts)

        return gathered

    echoes = [Echo(), Echo()]
    modules = [shared(Share(k, 2, gathered_by(k)), echo) for k, echo in enumerate(echoes)]
    with ThreadPoolExecutor(2) as pool:
        batches = list(pool.map(lambda module: module.batch(3, Counter()), modules))
    whole = shared(Share(), alone := Echo())
    whole.regenerate(0, Counter())
    assert torch.equal(modules[0].synthetic.reward, modules[1].synthetic.reward)
    assert sorted(modules[0].synthetic.reward[0].tolist()) == sorted(whole.synthetic.reward[0].tolist())
    assert [len(echo.starts[0][0]) for echo in echoes] == [5, 5]
    assert len({*alone.seeds, *echoes[0].seeds, *echoes[1].seeds}) == 3  # streams of their own
    assert [batch.batch_size for batch in batches] == [(1, 8), (1, 8)]
    modules[0].share = Share()
    expected = modules[0].batch(3, Counter())
    assert torch.equal(torch.stack([b.reward[0] for b in batches], dim=1).flatten(), expected.reward[0])


def test_what_cannot_be_shared_evenly_is_refused():
    with pytest.raises(UserError, match="batch_size=15 .* a multiple of their number"):
        shared(Share(0, 2), None, batch_size=15)
    with pytest.raises(UserError, match="num_windows=1"):
        shared(Share(0, 2), None, num_windows=1)
