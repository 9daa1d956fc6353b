"""Where metrics go: CSV files in the run's folder are the record, W&B is a mirror that may fail."""

import netrc
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger

from pgd_lightning.runs.console import say
from pgd_lightning.runs.run import Run

failed = False  # one try a command: without a network each costs its whole timeout


@dataclass(frozen=True)
class MirrorSettings:
    """Where and how W&B mirrors a run (``conf/logger``), and what it says of the run."""

    wandb: str  # auto, online, offline or disabled
    project: str
    timeout: float  # seconds that W&B may take to begin or to end a run
    hyperparameters: Mapping[str, Any]


class Mirror(Logger):
    """A W&B run that never hurts the real one: a command's first failure costs one warning, and then W&B is off."""

    def __init__(self, make: Callable[[], WandbLogger]) -> None:
        super().__init__()
        self.wandb: WandbLogger | None = None
        self._attempt(lambda: setattr(self, "wandb", make()))

    def _attempt(self, action: Callable[[], Any]) -> None:
        global failed
        try:
            action()
        except Exception as error:
            self.wandb, failed = None, True
            reason = (str(error).splitlines() or [""])[0]
            say(
                f"warning: W&B failed ({error.__class__.__name__}: {reason}) and is off for the rest of this command; "
                "the run's files are the record"
            )
            with suppress(Exception):  # else its service, where that died, fails once more when this process ends
                import wandb

                wandb.teardown()

    @property
    def name(self) -> str:
        return "wandb"

    @property
    def version(self) -> str:
        return "mirror"

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        if self.wandb:
            self._attempt(lambda: self.wandb.log_metrics(metrics, step))  # type: ignore[union-attr]

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        if self.wandb:
            self._attempt(lambda: self.wandb.log_hyperparams(params))  # type: ignore[union-attr]

    def log_figures(self, paths: list[Path]) -> None:
        """Mirror PNG files under their names."""
        for path in paths:
            if self.wandb:
                self._attempt(lambda path=path: self.wandb.log_image(path.stem, [str(path)]))  # type: ignore[misc]

    def close(self) -> None:
        """End the W&B run, so that the next stage of this process starts its own."""
        if self.wandb:
            self._attempt(lambda: self.wandb.experiment.finish())  # type: ignore[union-attr]


def wandb_mode(asked: str) -> str:
    """``auto`` is online for a user who is logged in, else offline: no account is needed."""
    if asked != "auto":
        return asked
    try:
        known = netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        known = False
    return "online" if known or os.environ.get("WANDB_API_KEY") else "offline"


def mirror(settings: MirrorSettings, run: Run, part: str = "") -> Mirror | None:
    """The W&B run of ``run`` (or of a ``part`` of it), unless W&B is disabled."""
    mode = wandb_mode(settings.wandb)
    if mode == "disabled" or failed:
        return None
    record, patience = run.record, settings.timeout

    def start() -> WandbLogger:
        import wandb  # only where it is used: a machine without it can train

        # wandb.init here, not in WandbLogger: that one passes a setting which W&B answers with a warning.
        return WandbLogger(
            experiment=wandb.init(
                project=settings.project,
                name=f"{record['env']}/{record['method']}/{record['seed']}{part}",
                group=record["env"],
                job_type=part.lstrip("/") or record["stage"],
                id=f"{record['stage']}-{run.folder.parent.name}-{record['seed']}{part.replace('/', '-')}",
                dir=run.folder,
                mode=mode,  # type: ignore[arg-type]
                reinit="finish_previous",  # one that a stop left open would be written into
                resume="allow" if mode == "online" else None,
                settings=wandb.Settings(init_timeout=patience, finish_timeout=patience, finish_timeout_raises=True),
            )
        )

    made = Mirror(start)
    made.log_hyperparams(settings.hyperparameters)
    return made


def loggers(settings: MirrorSettings, run: Run) -> list[Logger]:
    """The CSV record, and the mirror unless it is disabled."""
    csv = CSVLogger(run.folder / "metrics", name="", version=f"attempt_{run.attempt}", flush_logs_every_n_steps=200)
    second = mirror(settings, run)
    return [csv, second] if second else [csv]


def mirror_figures(settings: MirrorSettings, run: Run, figures: list[Path]) -> None:
    """Show the report's figures in W&B, as a run beside the one that trained."""
    if made := mirror(settings, run, part="/report"):
        made.log_figures(figures)
        made.close()
