"""``prior.steps=auto``: where training ends, and that it ends there again after a stop."""

import pytest
import torch
from helpers.commands import SMALL, command, pgd

from pgd_lightning.config.compose import compose_config
from pgd_lightning.generators.prior import warmup_stable_decay
from pgd_lightning.runs import identity
from pgd_lightning.training.callbacks import StopOnSignal
from pgd_lightning.training.until_flat import UntilFlat

AUTO = ["prior.steps=auto", "prior.validate_every=4", "prior.auto.warmup=5", "prior.auto.minutes=30"]


def trained(recording, runs, monkeypatch, *more):
    """The last checkpoint of ``pgd prior``."""
    words = [w for w in command(recording, runs)[1:] if not w.startswith(("compare", "prior.steps", "prior.validate"))]
    assert pgd(monkeypatch, ["prior", *words, *AUTO, *more]) == 0
    path = sorted(runs.glob("prior/*/*/0/checkpoints/*.ckpt"))[-1]
    return path, torch.load(path, weights_only=True)


def test_the_rate_rises_stays_and_falls_to_zero():
    rates = [warmup_stable_decay(step, 10, 0.1, 50, 60) for step in (0, 5, 10, 50, 55, 60, 61)]
    assert rates == pytest.approx([0.1, 0.55, 1, 1, 0.5, 0, 0])
    assert warmup_stable_decay(10**6, 10, 0.1, None, 10**9) == 1
    assert warmup_stable_decay(9, 10, 0.1, 5, 10) == pytest.approx(0.2)  # told to end while it still rises


def test_a_quarter_more_steps_are_what_counts():
    callback = UntilFlat(minutes=1, gain=0.02, validations=5, decay=0.2)
    callback.history = [(step, 1 / step) for step in (100, 200, 300, 400)]
    assert callback.removed() is None  # four validations are too few
    callback.history.append((500, 1 / 500))
    assert callback.removed() == pytest.approx(0.2)  # 400 of 500 steps: the noise left fell by a fifth since


def test_it_decays_when_little_is_gained_and_ends_where_it_said(recording, tmp_path, monkeypatch, capsys):
    path, state = trained(recording, tmp_path, monkeypatch, "prior.auto.gain=0.99")
    assert path.stem == "step=000000030"  # flat after the fifth validation beyond the warm-up, at 24; a fifth decays
    assert "the learning rate decays now, to step 30" in capsys.readouterr().out
    assert all(group["lr"] == 0 for group in state["optimizer_states"][0]["param_groups"])


def test_stopped_in_its_decay_it_ends_with_the_same_weights(recording, tmp_path, monkeypatch):
    whole, state = trained(recording, tmp_path / "whole", monkeypatch, "prior.auto.gain=0.99")
    with monkeypatch.context() as patch:
        patch.setattr(StopOnSignal, "_asked", lambda _, trainer: trainer.global_step in (7, 27))
        for last in (7, 27):
            with pytest.raises(AssertionError):
                trained(recording, tmp_path / "again", patch, "prior.auto.gain=0.99")
            assert sorted((tmp_path / "again").glob("prior/*/*/0/checkpoints/*.ckpt"))[-1].stem.endswith(f"{last:02d}")
    again, resumed = trained(recording, tmp_path / "again", monkeypatch, "prior.auto.gain=0.99")
    assert again.name == whole.name
    for name, value in state["state_dict"].items():
        assert torch.equal(value, resumed["state_dict"][name]), name


def test_it_ends_when_its_time_is_spent(recording, tmp_path, monkeypatch, capsys):
    path, _ = trained(recording, tmp_path, monkeypatch, "prior.auto.minutes=0.02", "prior.validate_every=1000")
    assert "prior.auto.minutes=0.02 are nearly spent" in capsys.readouterr().out
    step = int(path.stem.partition("=")[2])
    began = next(s for s in range(10, step, 10) if s + max(round(s * 0.2 / 0.8), 1) == step)
    assert began < step


def test_the_settings_of_auto_make_another_prior_only_with_auto():
    def known(*more):
        return identity.model(compose_config("train", [*SMALL, *more]), "prior", "file")

    assert known("prior.auto.gain=0.5", "prior.validate_every=7") == known()
    assert known("prior.steps=auto", "prior.validate_every=7") != known("prior.steps=auto")  # it may end there
    assert known("prior.steps=auto", "prior.auto.gain=0.5") != known("prior.steps=auto") != known()
