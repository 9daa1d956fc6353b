"""What is typed wrongly gets one sentence."""

import pytest
from helpers.commands import pgd


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["train", "env=hoper-medium"], "did you mean hopper-medium"),
        (["train", "guidance.coeff=2"], "did you mean guidance.coef"),
        (["train", "agnt=iql"], "did you mean agent"),
        (["train", "scale=tiny"], "there are laptop, paper, smoke"),
        (["train", "prior.steps=many"], "prior.steps=many does not fit"),
        (["train", "seeds=0"], "1 to 10000"),
        (["train", "seeds=-3"], "does not fit"),
        (["train", "data.horizon=1"], "data.horizon=1 does not fit: it is a whole number, 2 to 100000"),
        (["trian"], "did you mean train"),
        (["train", "foo"], "write key=value"),
        (["train", "--fast"], "Unknown option --fast"),
        (["train", "data.source=/nowhere.hdf5"], "There is no file /nowhere.hdf5"),
        (["evaluate"], "needs run="),
        (["evaluate", "run=nowhere"], "There is no run in 'nowhere'"),
        (["collect", "env=pen-human"], "There is no recipe for 'pen-human'"),
        (["train", "env=pen-expert", "data.timeout=1", "data.retries=0", "data.base_url=http://127.0.0.1:9/"],
         "to use it, put pen-expert-v1.hdf5 into"),
    ],
)  # fmt: skip
def test_bad_input_gets_one_sentence(monkeypatch, capsys, tmp_path, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    assert pgd(monkeypatch, arguments) == 1
    error = capsys.readouterr().err
    assert sentence in error
    assert "Traceback" not in error
    assert len(error.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_help_shows_an_example(monkeypatch, capsys):
    assert pgd(monkeypatch, ["--help"]) == 0
    assert "example: pgd train" in capsys.readouterr().out
