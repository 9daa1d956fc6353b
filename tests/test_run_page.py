"""The page of one run and its figures: what they say, what they leave out of an axis, and that they need no network."""

import re
import subprocess
from html.parser import HTMLParser

import mujoco
import numpy as np
import pytest

from pgd_lightning.evaluation.statistics import Interval, paired_interval
from pgd_lightning.report import figures
from pgd_lightning.report.analysis_figure import analysis_figure, draw_error_by_row, draw_plane
from pgd_lightning.report.data_figure import data_figure
from pgd_lightning.report.drawing import COLOURS, GUIDED, INK, UNGUIDED, inline, panel, plt, standalone
from pgd_lightning.report.page_figures import figure_name
from pgd_lightning.report.run_page import Measured, losses_of, score_rows, window_panels
from pgd_lightning.report.summary import Difference, reading, readings
from pgd_lightning.report.templates import render, score_row
from pgd_lightning.runs.run import Run
from pgd_lightning.simulators import make, rendering
from pgd_lightning.simulators.channel_names import channels
from pgd_lightning.simulators.rendering import aim


def row(name: str, error: float, likelihood: float = -2.0) -> dict:
    """A source of windows as an analysis measures it."""
    return {
        "target": "agent", "generator": name, "label": name, "guidance_coef": None, "windows": 8,
        "log_likelihood": likelihood, "log_likelihood_interval": [likelihood - 0.1, likelihood + 0.1],
        "mean_density": 0.1, "persistence_error": 0.9, "dynamics_error_median": error,
        "dynamics_error_interval": [error / 1.2, error * 1.2], "dynamics_error_mean": error,
        "dynamics_error_p90": error, "by_position": [error, None, error * 2],
        "by_position_quartiles": [[error / 2, error * 2], None, [error, error * 3]],
        "reward_error": 0.1, "return_real": 1.0, "late_reward": 3.21, "late_reward_policy": 2.34, "reset": "exact", "rows_not_resettable": 0,
    }  # fmt: skip


ROWS = [row("real", 4e-15), row("unguided", 0.011), row("guided", 0.012, -1.5)]


# --- what it says ---


@pytest.mark.parametrize(
    ("gain", "said"),
    [
        (10.0, "Guided data gave a higher score than real data alone: difference 10.0 ["),
        (-10.0, "Guided data gave a lower score than real data alone: difference -10.0 ["),
        (0.4, "No significant difference in score between guided data and real data alone: difference 0.4 ["),
    ],
)
def test_the_reading_is_what_the_interval_allows(gain, said):
    luck = np.array([-4.0, -2.0, 0.0, 2.0, 4.0])[:, None]
    assert reading("pgd", "none", paired_interval(50 + gain + luck, 50 + 0 * luck), "score").startswith(said)


def test_two_seeds_allow_no_reading():
    two = np.array([[40.0], [60.0]])
    assert reading("pgd", "none", paired_interval(two, two - 5), "success rate") == (
        "2 seeds are too few to compare guided data with real data alone (at least 3): difference in success rate 5.0."
    )


@pytest.mark.parametrize(
    ("measure", "said"),
    [
        ("score", "score 5.0 [4.0, 6.0]"),
        ("success", "success rate 5.0 [4.0, 6.0] %"),
        ("return", "return 5.0 [4.0, 6.0]"),
    ],
)
def test_a_run_that_is_compared_with_nothing_says_what_was_measured(measure, said):
    interval = {"mean": 5.0, "low": 4.0, "high": 6.0, "num_seeds": 5, "num_episodes": 2}
    summary = {"measure": measure, "differences": {}, "scores": {"none": interval}}
    assert readings(summary) == [f"Real data alone: {said}."]


def test_losses_come_from_all_starts(tmp_path):
    for attempt, lines in ((1, "50,0.9,\n100,,0.8\n150,0.7,\n"), (2, "100,,0.75\n200,0.5,0.6\n"), (10, "300,0.4,\n")):
        folder = tmp_path / "metrics" / f"attempt_{attempt}"
        folder.mkdir(parents=True)
        (folder / "metrics.csv").write_text("step,prior/loss,prior/val_loss\n" + lines)
    assert losses_of(Run(tmp_path)) == {
        "training": ([51, 151, 201, 301], [0.9, 0.7, 0.5, 0.4]),
        "held-out": ([101, 201], [0.75, 0.6]),
    }


# --- figures ---


@pytest.mark.parametrize("draw", [draw_plane, draw_error_by_row])
def test_the_floor_does_not_stretch_the_axis(draw):
    _, axis = plt.subplots()
    draw(axis, ROWS)
    low, high = axis.get_ylim()
    assert 1e-3 < low < 0.01
    assert 0.9 < high < 10  # the persistence error is on it
    labels = axis.get_legend_handles_labels()[1]
    assert "real: 4e-15, below the axis" in labels
    assert "predicting no change: 0.9" in labels
    plt.close()


def test_a_real_error_of_the_others_size_is_a_point():
    _, axis = plt.subplots()
    draw_plane(axis, [row("real", 0.005), *ROWS[1:]])
    assert "real" in axis.get_legend_handles_labels()[1]
    low, high = axis.get_ylim()
    assert low < 0.005 < high
    plt.close()


def test_a_real_error_near_the_persistence_error_is_a_point():
    """So it is where an observation hides the state: generated windows may be much worse than both."""
    _, axis = plt.subplots()
    draw_plane(axis, [row("real", 0.1), row("guided", 40.0)])
    assert "real" in axis.get_legend_handles_labels()[1]
    plt.close()


@pytest.mark.usefixtures("drawn_by_nobody")
def test_an_analysis_without_yardstick_or_quartiles_is_drawn(tmp_path):
    """Those of earlier versions have neither."""
    old = [{k: v for k, v in r.items() if k not in ("persistence_error", "by_position_quartiles")} for r in ROWS]
    path = analysis_figure(old, "title", tmp_path / "analysis.png")
    assert {p.name for p in tmp_path.iterdir()} == {"analysis.png", "analysis.svg"}
    assert path.read_bytes()[:4] == b"\x89PNG"


@pytest.mark.usefixtures("drawn_by_nobody")
@pytest.mark.parametrize("drawn", [1, 3, 6])
def test_trajectories_of_any_number_of_windows(tmp_path, drawn):
    rng, shown = np.random.default_rng(0), channels("hopper").drawn
    pairs = {
        kind: (rng.normal(size=(drawn, 8, 11)), rng.normal(size=(drawn, 8, 3)))
        for kind in ("real", "unguided", "guided")
    }
    ended = {kind: np.where(np.arange(8)[:, None] > 5, np.nan, obs) for kind, (obs, _) in pairs.items()}
    figures.trajectories(pairs, ended, shown, "title", tmp_path / "trajectories.png")
    assert "torso height [m]" in (tmp_path / "trajectories.svg").read_text()
    figure = figures.channel_figure(pairs, ended, shown[0])
    lines = figure.axes[1].lines
    assert len(lines) == 2 * drawn  # each window and what the simulator makes of it
    assert {line.get_color() for line in lines[::2]} == {UNGUIDED}
    assert len({(line.get_linestyle(), line.get_dash_capstyle()) for line in lines[::2]}) >= min(drawn, 3)
    plt.close(figure)


def test_figures_of_two_run_folders_have_names_of_their_own():
    folders = "runs/agent/hopper-medium/iql-none-aaaa/0", "runs/agent/hopper-medium/td3_bc-none-bbbb/0"
    assert len({figure_name("plane", 0, target) for target in (*folders, "agent", "ppo:last")}) == 4


def test_returns_are_of_the_episodes_whose_scores_are_shown():
    """Another command may have measured more."""
    rows = [{"purpose": "final", "index": i, "return": r} for i, r in enumerate((1.0, 3.0, 1e6))]
    scores = vars(Interval(2.0, None, None, 1, 2))
    (row,) = score_rows({"scores": {"none": scores}}, {"none": rows})
    assert row["return"] == 2.0


def test_every_kind_keeps_its_colour():
    assert COLOURS["pgd"] == COLOURS["guided"] == GUIDED
    assert COLOURS["none"] == COLOURS["real"] == INK


def test_a_recordings_figure_names_what_varies(tmp_path):
    names, zeros = channels("ant"), [0.0] * 84
    columns = {key: [value] * 27 + zeros for key, value in (("min", -1.0), ("max", 1.0), ("mean", 0.0), ("std", 0.5))}
    action = {key: values[:8] for key, values in columns.items()}
    data_figure(
        np.arange(5.0), np.full(5, 9), {"observation": (names.obs, columns), "action": (names.action, action)},
        "title", tmp_path / "check.png",
    )  # fmt: skip
    drawn = (tmp_path / "check.svg").read_text()
    assert "torso height [m]" in drawn
    assert "contact" not in drawn
    assert "without 84 that are constant" in drawn


def test_an_svg_takes_the_pages_ink_and_a_file_is_black_on_white():
    figure, axis = plt.subplots()
    axis.plot([0, 1], color=INK)
    axis.plot([1, 0], color=UNGUIDED)
    drawing = inline(figure)
    assert "currentColor" in drawn(drawing)
    assert INK not in drawing
    assert "var(--blue" in drawing
    alone = standalone(drawing)
    assert "var(" not in alone
    assert "background:white" in alone


def drawn(drawing: str) -> str:
    """The drawing, after a look at its addresses: they lead nowhere but into itself."""
    addresses = re.findall(r'href="([^"]*)"|url\(([^)]*)\)', drawing)
    assert all((a or b).startswith(("#", "data:")) for a, b in addresses)
    return drawing


@pytest.mark.parametrize("task", ["hopper", "ant", "maze2d-large", "antmaze-umaze", "pen", "kitchen"])
def test_the_camera_is_near_what_acts(task):
    simulator, camera = make(task, "today"), mujoco.MjvCamera()
    simulator.reset(0)
    aim(camera, task, simulator)
    body = {"pen": "Object", "kitchen": simulator.model.nbody - 1, "maze2d-large": "particle"}.get(task, "torso")
    place = simulator.data.body(body).xpos
    assert np.linalg.norm(camera.lookat - place) < camera.distance


def test_without_pictures_the_cause_is_said(monkeypatch):
    def late(command, timeout, **options):
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(subprocess, "run", late)
    with pytest.warns(UserWarning, match="drawing took longer than 60 s"):
        assert rendering.render("hopper", np.zeros((1, 6))) is None
    monkeypatch.setattr(subprocess, "run", lambda command, **options: subprocess.CompletedProcess(command, 1))
    with pytest.warns(UserWarning, match="neither EGL nor OSMesa works here"):
        assert rendering.render("hopper", np.zeros((1, 6))) is None


# --- the page ---

CONTENT = {
    "measure": "score", "not_evaluated": "", "not_stepped": "",
    "title": "iql on hopper-medium", "notice": "The data are a substitute", "substitute": True,
    "label": "a <substitute>", "what": "iql was trained.", "readings": ["Guided data gave a higher score."],
    "rows": [], "conditions": "", "minari": "", "data": [("episodes", "5")], "notes": ["odd <rows>"],
    "model": {"section": "prior", "method": "edm", "losses": [], "verdict": "warning: poor", "errors": None},
    "windows": ROWS, "num_drawn": 2, "simulated": "the simulator", "channels": ["torso height [m]"], "differences": [],
    "critics": ["the critics expect <350>"], "rollout": "data:image/png;base64,AA==", "commands": {"pgd train 'a<b'": ["iql-pgd in runs/…"]}, "facts": [],
    "wandb": "W&B has no copy", "files": ["table.txt"],
}  # fmt: skip


class Page(HTMLParser):
    """Addresses, scripts, ids and headings."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.heads: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "data") or name.endswith(":href")]

    def handle_data(self, data):
        if self.tags and self.tags[-1] in ("h1", "h2", "title", "small"):
            self.heads.append(data.strip())


def test_the_page_needs_nothing_from_elsewhere_and_no_script():
    shown = panel(lambda axis: draw_plane(axis, ROWS))
    page = render("run_page.html", dict.fromkeys(("plane", "by_row", "learning", "losses", "torso height [m]"), shown),
                  **CONTENT)  # fmt: skip
    parsed = Page(page)
    assert all(address.startswith(("#", "data:")) for address in parsed.addresses)
    assert not {"script", "link", "iframe", "object"} & set(parsed.tags)
    assert not re.findall(r"@import|url\((?!#)", page)
    assert "<substitute>" not in page
    assert "expect &lt;350&gt;" in page
    assert "<td>3.21</td><td>2.34</td>" in page
    assert "<rows>" not in page
    assert "prefers-color-scheme: dark" in page
    order = ["Scores", "Data", "Prior", "Synthetic data", "Agents", "How to repeat it"]
    assert [head for head in parsed.heads if head in order] == order
    assert sum("substitute data, not D4RL's" in head for head in parsed.heads) == 2  # title and heading


def test_a_page_of_real_data_alone_has_no_model():
    alone = CONTENT | {"model": None, "windows": ROWS[:1], "rollout": ""}
    page = render(
        "run_page.html", dict.fromkeys(("plane", "by_row", "learning", "torso height [m]"), "<svg/>"), **alone
    )
    assert "recorded data alone" in page
    assert "<img" not in page


@pytest.mark.parametrize(
    ("measure", "head", "full", "name"),
    [
        ("score", "Scores", "Normalised score [%]", "score"),
        ("success", "Success rates", "Success rate [%]", "success rate"),
        ("return", "Returns", "Return", "return"),
    ],
)
def test_the_page_names_what_it_shows(measure, head, full, name):
    interval = Interval(5.0, 4.0, 6.0, 5, 2)
    differences = [Difference("guided minus real", interval)]
    shown = CONTENT | {"measure": measure, "differences": differences, "readings": [], "notice": "", "windows": []}
    page = render("run_page.html", dict.fromkeys(("learning", "losses"), "<svg/>"),
                  **shown | {"rows": [score_row("real", interval, -7.0)]})  # fmt: skip
    assert f"<h2>{head}</h2>" in page
    assert f"{full} of the last checkpoint" in page
    assert f"<th>{name}</th>" in page
    assert f"Differences of the {name}s above" in page
    assert f"<th>{name} [95 %]</th>" in page
    assert f"{name.capitalize()} of the monitored checkpoints" in page
    assert ("score" in page.lower()) == (measure == "score")
    assert ("success" in page) == (measure == "success")
    assert page.count("<th>return</th>") == 1  # as the measure, or beside it


@pytest.mark.parametrize("error, unresettable", [(None, None), (0.1, "a state cannot be set")])
def test_windows_of_which_no_step_could_be_tried_get_no_panels_of_errors(error, unresettable):
    rows = [{"generator": "pgd", "target": "agent", "factor": 1.0, "dynamics_error_median": error}]
    assert window_panels(Measured(rows, {}, {}, np.zeros((0, 0)), unresettable), []) == {}
