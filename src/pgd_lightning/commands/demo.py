"""``pgd demo``: what policy guidance does, in one picture of a maze, in minutes.

A prior learns how the ball of maze2d moves between random goals. A policy that the recording does not contain, one that
always goes to the star, then guides it, and its windows are held against those of the prior alone, against the
recording and against what the policy really does in the simulator. Every part is the product's own; only the target
policy is written down (:class:`~pgd_lightning.simulators.substitutes.goal_policy.GoalPolicy`) rather than trained.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor

from pgd_lightning.artifacts.dataset import Dataset, open_dataset
from pgd_lightning.artifacts.generators import ready_generator
from pgd_lightning.config.build import build
from pgd_lightning.data.outputs import expanded, make_folder, require_own
from pgd_lightning.environment import EnvSpec
from pgd_lightning.errors import UserError
from pgd_lightning.evaluation.fidelity import log_likelihood, persistence_error, step_errors
from pgd_lightning.randomness import stream
from pgd_lightning.report.maze_figure import Panel, maze_figure
from pgd_lightning.report.templates import photograph, render
from pgd_lightning.runs.atomic import write_atomic
from pgd_lightning.runs.console import say
from pgd_lightning.runs.provenance import command_line, program
from pgd_lightning.simulators import Simulator, make, one_step
from pgd_lightning.simulators.maze import MAZES, cells_of, in_wall
from pgd_lightning.simulators.substitutes.goal_policy import GoalPolicy
from pgd_lightning.trajectory import Trajectory

FILES = ("index.html", "demo.json", "demo.png", "demo.svg")
DATA, UNGUIDED, GUIDED, POLICY = "data", "unguided", "guided", "policy"
TITLES = {
    DATA: "data", UNGUIDED: "diffusion model", GUIDED: "guided by the policy", POLICY: "the policy, simulated",
}  # fmt: skip
NEAR = 0.35  # cells from a place: windows that begin farther off are not drawn
AT_LEAST = 1.0  # cells from the goal: windows that begin nearer to it are no test of who goes there
HALF = 0.5  # guidance works if it halves the distance to the policy, and the gap to how many windows go its way


@dataclass(frozen=True)
class Measured:
    """What is said of one kind of window."""

    towards: float  # share of the windows that end nearer to the goal than they began
    action_error: float  # mean squared distance of an action to the policy's
    log_likelihood: float  # of the actions under the policy, mean over rows
    step_error: float  # median squared error of one real step, in variances of the data


def main(config: DictConfig, overrides: list[str]) -> None:
    """Train the prior if it is not trained yet, sample, draw, and say what can be seen."""
    torch.set_num_threads(config.demo.threads)
    folder = expanded(config.out)
    require_own(folder, FILES, "demo.json", lambda content: "demo" in content, config.overwrite)
    maze, policy = target(build(config.env), config)
    make_folder(folder)
    say("demo 1/3: recording a ball that a controller steers from one random goal of the maze to the next")
    dataset = open_dataset(config)
    say("demo 2/3: training a diffusion model on windows of the recording; the target policy takes no part")
    windows = sampled(config, dataset, policy)
    say(
        f"demo 3/3: sampling {config.demo.windows} windows without and with guidance by the target policy, which "
        f"always goes to the star; the simulator repeats {config.demo.rows:,} steps of each kind"
    )
    simulator = make(dataset.env.task, dataset.env.physics)
    windows[POLICY] = rolled_out(policy, simulator, windows[GUIDED], maze, config.seed)
    found = {kind: measured(policy, part, simulator, dataset, config) for kind, part in windows.items()}
    still = persistence_error(windows[DATA], dataset.obs_std)
    draw(windows, found, policy, maze, config, folder)
    write(found, still, dataset, config, folder)


def target(env: EnvSpec, config: DictConfig) -> tuple[str, GoalPolicy]:
    """The maze's name and the policy that guides. Raises UserError for another task, or a goal in a wall."""
    family, _, maze = env.task.removesuffix("-dense").partition("-")
    if family != "maze2d":
        raise UserError(f"The demo is about a maze, not {env.task}: env=maze2d-umaze, maze2d-medium or maze2d-large.")
    goal = np.array(config.demo.goal)
    if in_wall(maze, goal[None]).any():
        rows = " ".join(MAZES[maze])
        raise UserError(f"demo.goal={goal.tolist()} is no free cell (row, column) of {env.task}: {rows}.")
    return maze, GoalPolicy(maze, (int(goal[0]), int(goal[1])), config.demo.std)


def sampled(config: DictConfig, dataset: Dataset, policy: GoalPolicy) -> dict[str, Trajectory]:
    """Windows ``[N, T]`` of the recording, of the prior, and, from the same noise, of the guided prior."""
    generator = ready_generator(config, dataset)
    if generator is None:
        raise UserError("The demo needs a generator: generator=none has nothing to show.")
    number = config.demo.windows
    chosen = np.random.default_rng(config.seed).permutation(len(dataset.train))[:number]
    shape = torch.zeros(number, dataset.env.obs_dim)
    return {
        DATA: dataset.train[torch.as_tensor(chosen)],
        UNGUIDED: generator.generate(None, shape, config.seed),
        GUIDED: generator.generate(policy, shape, config.seed),
    }


def rolled_out(policy: GoalPolicy, simulator: Simulator, guided: Trajectory, maze: str, seed: int) -> Trajectory:
    """What the policy really does from where the ``guided [N, T]`` windows begin, walls left out."""
    first = guided.obs[:, 0]
    obs = first[torch.as_tensor(~in_wall(maze, cells_of(first[:, :2].double().numpy())))]
    noise = stream(seed, "demo/policy")
    rows: dict[str, list[Tensor]] = {"obs": [], "action": [], "reward": [], "terminated": []}
    for _ in range(guided.batch_size[-1]):
        action = policy.draw(obs, torch.randn(len(obs), 2, generator=noise))
        after, reward, terminated, *_ = one_step(simulator, obs.double().numpy(), action.double().numpy())
        for name, value in zip(rows, (obs, action, torch.as_tensor(reward), torch.as_tensor(terminated)), strict=True):
            rows[name].append(value)
        obs = torch.as_tensor(after, dtype=torch.float32)
    columns = {name: torch.stack(values, dim=1) for name, values in rows.items()}
    return Trajectory(**columns, batch_size=list(columns["reward"].shape))


def measured(
    policy: GoalPolicy, windows: Trajectory, simulator: Simulator, dataset: Dataset, config: DictConfig
) -> Measured:
    """See :class:`Measured`."""
    left = policy.way_left(windows.obs[..., :2])
    far = left[:, 0] > AT_LEAST
    error = windows.action[:, :-1] - policy.act(windows.obs[:, :-1])
    steps = step_errors(simulator, windows, dataset.obs_std, config.demo.rows, config.seed)
    return Measured(
        towards=float((left[far, -1] < left[far, 0]).float().mean()),
        action_error=float(error.square().mean()),
        log_likelihood=float(log_likelihood(policy, windows).mean()),
        step_error=float(np.median(steps.dynamics)),
    )


def draw(
    windows: Mapping[str, Trajectory], found: Mapping[str, Measured], policy: GoalPolicy, maze: str,
    config: DictConfig, folder: Path,
) -> None:  # fmt: skip
    """The figure: of every kind the windows that begin nearest to the same places."""
    places = spread_out(windows[DATA], policy, config.demo.starts)
    panels = []
    for kind, part in windows.items():
        paths = part[nearest(part, policy, places, config.demo.paths)].obs[..., :2]
        left = policy.way_left(paths)
        text = f"{found[kind].towards:.0%} get nearer to the star"
        panels.append(Panel(TITLES[kind], paths.double().numpy(), (left[:, -1] < left[:, 0]).numpy(), text))
    goal = (int(config.demo.goal[0]), int(config.demo.goal[1]))
    title = "The data go anywhere, the policy only to the star. Guided by it, where does the diffusion model go?"
    maze_figure(panels, maze, goal, title, [folder / "demo.png", folder / "demo.svg"])


def spread_out(windows: Trajectory, policy: GoalPolicy, number: int) -> Tensor:
    """First positions ``[number, 2]`` of windows far from the goal, each as far from the others as can be."""
    first = windows.obs[:, 0, :2]
    first = first[policy.way_left(first) > AT_LEAST]
    places = first[policy.way_left(first).argmax()][None]
    while len(places) < min(number, len(first)):
        places = torch.cat([places, first[torch.cdist(first, places).min(1).values.argmax()][None]])
    return places


def nearest(windows: Trajectory, policy: GoalPolicy, places: Tensor, number: int) -> Tensor:
    """The ``number`` windows that begin nearest to each of ``places [P, 2]``, no window twice, none beyond ``NEAR``."""
    first = windows.obs[:, 0, :2]
    distance = torch.cdist(places, first)
    distance[:, ~(policy.way_left(first) > AT_LEAST)] = torch.inf
    chosen: list[int] = []
    for _ in range(number):
        for place in range(len(places)):
            best = int(distance[place].argmin())
            if distance[place, best] < NEAR:
                chosen.append(best)
                distance[:, best] = torch.inf
    return torch.tensor(chosen, dtype=torch.long)


def write(found: Mapping[str, Measured], still: float, dataset: Dataset, config: DictConfig, folder: Path) -> None:
    """``demo.json`` and the page; says on the terminal what they say."""
    content = {
        "demo": {kind: asdict(values) for kind, values in found.items()},
        "nothing_changes": still,
        "data": dataset.label,
        "reading": reading(found, still),
        "command": command_line(),
    }
    write_atomic(folder / "demo.json", json.dumps(content, indent=1))
    write_atomic(folder / "index.html", page(content, config, folder / "demo.png"))
    say("")
    say(f"{'':<24}{'nearer to star':>16}{'action error':>14}{'one-step error':>16}")
    for kind, values in found.items():
        say(f"{TITLES[kind]:<24}{values.towards:>16.0%}{values.action_error:>14.2f}{values.step_error:>16.2g}")
    say(f"{'predicting no change':<24}{'':>16}{'':>14}{still:>16.2g}")
    say(
        "action error: mean squared distance to the policy's action; one-step error: median squared error of one "
        "simulated step, in variances of the data"
    )
    say(f"\n{content['reading']}\n")
    say(f"page:    {folder / 'index.html'}\npicture: {folder / 'demo.png'}, {folder / 'demo.svg'}")
    say(f"next:    {next_command()}")


def reading(found: Mapping[str, Measured], still: float) -> str:
    """What the numbers say, also where they say that guidance failed."""
    plain, guided, data, policy = found[UNGUIDED], found[GUIDED], found[DATA], found[POLICY]
    gap = policy.towards - plain.towards
    follows = guided.action_error < HALF * plain.action_error and 0 < HALF * gap < guided.towards - plain.towards
    said = (
        f"{guided.towards:.0%} of the guided windows get nearer to the star, compared with {plain.towards:.0%} of the "
        f"unguided windows, {data.towards:.0%} of the data and {policy.towards:.0%} of the policy's simulated rollouts."
        f" The mean squared distance to the policy's action is {guided.action_error:.2g} in guided windows and "
        f"{plain.action_error:.2g} in unguided ones."
    )
    error = f"The median one-step error of guided windows is {guided.step_error:.2g}"
    yardstick = f"(unguided: {plain.step_error:.2g}; predicting no change: {still:.2g})"
    if guided.step_error > still:
        moves = "they do not follow the simulator."
    elif guided.step_error > 2 * plain.step_error:
        less = still / guided.step_error
        moves = f"guidance costs accuracy, but the error stays {less:.0f} times below that of predicting no change."
    else:
        moves = "guided windows follow the simulator as well as unguided ones."
    return f"{'Guidance works here' if follows else 'Guidance failed here'}: {said} {error} {yardstick}: {moves}"


def next_command() -> str:
    """What to type after the demo."""
    return f"{program()} train env=hopper-medium"


def page(content: Mapping[str, Any], config: DictConfig, picture: Path) -> str:
    """The page, with everything it shows inside."""
    return render(
        "demo.html", {}, **content, picture=photograph(picture), titles=TITLES, next=next_command(),
        settings=config.demo, guidance=strength(config), weaker=strength(config, 0.3), steps=config.prior.steps,
    )  # fmt: skip


def strength(config: DictConfig, share: float = 1) -> str:
    """How strong guidance is, or a ``share`` of that, as it is typed."""
    name = "strength" if "strength" in config.guidance else "coef"
    return f"guidance.{name}={share * config.guidance[name]:g}"
