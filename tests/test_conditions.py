"""Agents on the experience of each generator, from the command to the ledger."""

import json
import shutil

import pytest
import torch
from helpers.commands import SMALL, command, pgd, run_of, weights

from pgd_lightning.artifacts.dataset import open_dataset
from pgd_lightning.artifacts.models import training_set
from pgd_lightning.config.compose import compose_config
from pgd_lightning.data import d4rl
from pgd_lightning.errors import UserError
from pgd_lightning.runs.checkpoints import newest_checkpoint
from pgd_lightning.simulators.substitutes.recipes import RECIPES

pytestmark = pytest.mark.usefixtures("drawn_by_nobody")


FEW_STEPS = [
    "synther.steps=30", "synther.batch_size=64", "vae.steps=30", "autoregressive.steps=30", "ensemble.steps=30",
    "transformer.steps=20", "rssm.steps=10", "updates=20", "synthetic.lifetime=10", "evaluation.every=20",
]  # fmt: skip


def test_pets_trains_an_agent_and_is_analysed(copied, recording, monkeypatch, capsys):
    more = ["generator=pets", "compare=[]", *FEW_STEPS, "ensemble.checkpoint_every=10"]
    assert pgd(monkeypatch, command(recording, copied, *more)) == 0
    assert run_of(copied, "pets").finished
    first = weights(run_of(copied, "pets"))
    (ensemble,) = (copied / "ensemble" / "maze2d-umaze").glob("pets-*/0")
    last = torch.load(newest_checkpoint(ensemble / "checkpoints"), weights_only=True)["state_dict"]
    shutil.rmtree(run_of(copied, "pets").folder)
    for path in (ensemble / "checkpoints").glob("*=000000030.ckpt"):
        path.unlink()
    record = json.loads((ensemble / "run.json").read_text()) | {"state": "killed"}
    (ensemble / "run.json").write_text(json.dumps(record))
    assert pgd(monkeypatch, command(recording, copied, *more)) == 0
    assert "continues from step=000000020.ckpt" in capsys.readouterr().out
    resumed = torch.load(newest_checkpoint(ensemble / "checkpoints"), weights_only=True)["state_dict"]
    assert all(torch.equal(last[key], resumed[key]) for key in last)
    again = weights(run_of(copied, "pets"))
    assert all(torch.equal(first[key], again[key]) for key in first)


@pytest.mark.parametrize("name", ["synther", "vae", "autoregressive", "transformer", "rssm", "recorded"])
def test_each_baseline_trains_an_agent(copied, recording, monkeypatch, name):
    """Also beside settings of the chosen generator, which no other condition of the comparison may inherit."""
    more = [f"generator={name}", "compare=[]", *FEW_STEPS]
    assert pgd(monkeypatch, command(recording, copied, *more)) == 0
    run = run_of(copied, name)
    assert run.finished
    shown = set(json.loads((run.folder / "report" / "fidelity.json").read_text()))
    of_policy = {"guided"} if name in ("autoregressive", "transformer", "rssm") else set()
    assert shown == {"real", "recorded" if name == "recorded" else "unguided"} | of_policy
    assert [summary["step"] for summary in run.rows("health.jsonl")] == [0, 10]
    assert all(summary["finite"] == 1 for summary in run.rows("health.jsonl"))


def test_td3_bc_with_score_guidance_and_batches_that_alternate(copied, recording, monkeypatch):
    more = (
        "agent=td3_bc",
        "guidance=score",
        "compare=[]",
        "synthetic=alternate",
        "synthetic.keep_terminal=true",
        *FEW_STEPS,
    )
    assert pgd(monkeypatch, command(recording, copied, *more)) == 0
    assert run_of(copied, "pgd", "td3_bc").finished


def test_rebrac_on_every_kind_of_data_and_continued(copied, recording, monkeypatch, capsys):
    """Real steps, windows, and single steps, which have no next action."""
    more = ("agent=rebrac", "compare=[none,unguided,synther]", *FEW_STEPS, "checkpoint_every=5")
    assert pgd(monkeypatch, command(recording, copied, *more)) == 0
    runs = [run_of(copied, name, "rebrac") for name in ("pgd", "none", "unguided", "synther")]
    assert all(run.finished for run in runs)
    first = weights(runs[0])
    assert len(first["learner.critic.pair.layers.0.weight"]) == 2
    for path in runs[0].checkpoints.glob("*=0000000[12]?.ckpt"):
        if "15" not in path.name:
            path.unlink()
    (runs[0].folder / "run.json").write_text(json.dumps(runs[0].record | {"state": "killed"}))
    assert pgd(monkeypatch, command(recording, copied, *more)) == 0
    assert "continues from step=000000015.ckpt" in capsys.readouterr().out
    again = weights(run_of(copied, "pgd", "rebrac"))
    assert all(torch.equal(first[key], again[key]) for key in first)


def test_prior_of_another_file_is_another_run(copied, tmp_path, monkeypatch):
    other = tmp_path / "maze.hdf5"
    d4rl.write(other, (chunk for chunk, _ in RECIPES["maze2d-umaze"].record(4000, 1, {})), {}, 4000)
    before = set((copied / "prior" / "maze2d-umaze").iterdir())
    assert pgd(monkeypatch, ["prior", f"data.source={other}", f"runs_dir={copied}", *SMALL]) == 0
    assert len(set((copied / "prior" / "maze2d-umaze").iterdir()) - before) == 1


def test_real_data_alone_need_no_window(recording, tmp_path, monkeypatch, capsys):
    """Nor do models of single steps; what does need one says so."""
    more = ("data.horizon=5000", "compare=[]", "agent=td3_bc", "seeds=1", "updates=20", "generator=none")
    assert pgd(monkeypatch, command(recording, tmp_path, *more)) == 0
    run = run_of(tmp_path, "none", "td3_bc")
    assert run.finished
    summary = json.loads((run.folder / "report" / "summary.json").read_text())
    assert "episodes_that_chose_something" not in summary  # nothing is chosen by episodes
    assert "0 training windows of 5000" in capsys.readouterr().out
    assert pgd(monkeypatch, command(recording, tmp_path, *more[:-1], "generator=pgd")) == 1
    assert "No window of 5000 rows fits" in capsys.readouterr().err
    dataset = open_dataset(compose_config("train", command(recording, tmp_path, *more)[1:]))
    assert len(training_set(compose_config("train", ["env=maze2d-umaze"]), "ensemble", dataset)[0]) > 1000
    with pytest.raises(UserError, match="No window of 5000 rows"):
        training_set(compose_config("train", ["env=maze2d-umaze"]), "vae", dataset)
