"""``pgd dashboard entity=NAME``: a W&B workspace with this project's layout, through the official package.

Runs are named env/method/seed, grouped by environment, with the stage as their job type (``training.loggers.mirror``).
"""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig

from pgd_lightning.errors import UserError
from pgd_lightning.runs.console import say

SECTIONS: dict[str, dict[str, list[str]]] = {  # section: {panel: metrics}
    "Score": {
        "normalised score, or success rate [%]": ["eval/score", "eval/success"],
        "return in the simulator": ["eval/return", "online/return"],
    },
    "Agent": {
        "value of the data's actions": ["train/value"],
        "start of an episode: expected by the critics, earned (discounted)": ["eval/expected", "eval/earned"],
        "losses": ["train/actor_loss", "train/critic_loss", "train/value_loss"],
    },
    "Prior and models": {
        "prior": ["prior/loss", "prior/val_loss"],
        "PETS": ["ensemble/loss", "ensemble/val_loss"],
        "PolyGRAD's world model": ["world/loss", "world/val_loss"],
    },
    "Imagination": {
        "standard deviation of standardised actions (1 is on-policy)": ["imagination/std"],
        "strength of guidance": ["imagination/strength"],
        "imagined return": ["agent/return"],
        "change of the policy in one update": ["agent/policy_change"],
        "policy's standard deviation": ["policy/std"],
    },
}
FIGURES = ["learning_curves", "fidelity", "trajectories", "rollout", "learning_curve", "actions"]


def main(config: DictConfig, overrides: list[str]) -> None:
    """Save the workspace; says where. Raises UserError without the package, or where W&B refuses."""
    made = workspace(config.entity, config.logger.project)
    try:
        made.save()
    except Exception as error:
        raise UserError(f"W&B did not take the workspace ({error}): are you logged in (wandb login)?") from error
    say(f"dashboard: {made.url}")


def workspace(entity: str, project: str) -> Any:
    """The workspace, not yet saved. Raises UserError without the package."""
    try:
        import wandb_workspaces.reports.v2 as panels
        from wandb_workspaces import expr, workspaces
    except ImportError as error:
        raise UserError("pgd dashboard needs W&B's package: pip install wandb-workspaces.") from error

    def section(name: str, contents: list[Any]) -> Any:
        return workspaces.Section(name=name, panels=contents, is_open=True)

    sections = [
        section(name, [panels.LinePlot(title=title, x="Step", y=list(metrics)) for title, metrics in lines.items()])
        for name, lines in SECTIONS.items()
    ]
    figures = section("Figures", [panels.MediaBrowser(media_keys=list(FIGURES))])
    return workspaces.Workspace(
        entity=entity,
        project=project,
        name="pgd-lightning",
        sections=[*sections, figures],
        runset_settings=workspaces.RunsetSettings(groupby=[expr.Metric("group"), expr.Metric("jobType")]),
    )
