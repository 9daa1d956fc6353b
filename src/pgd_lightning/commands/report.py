"""``pgd report``: one run beside its siblings (:mod:`run_report`), or one page over many runs (:mod:`page`)."""

from typing import Any

from omegaconf import DictConfig, OmegaConf

from pgd_lightning.artifacts.dataset import dataset_of
from pgd_lightning.config.saved import settings_of
from pgd_lightning.errors import UserError
from pgd_lightning.report import page, run_report
from pgd_lightning.runs.console import say
from pgd_lightning.runs.run import finished_agent


def main(config: DictConfig, overrides: list[str]) -> None:
    """The table, figures and page of ``run``, or one page over all finished runs below ``runs``.

    Raises UserError where there is no such run, or where runs that are not alike would share a row.
    """
    if config.run is None:
        where: Any = {} if config.where is None else OmegaConf.to_container(config.where)
        page.write(
            list(config.runs),
            where,
            config.out,
            overwrite=config.overwrite,
            resamples=config.resamples,
            selection=page.SelectionSettings(**config.selection),
            stale_after=config.stale_after,
        )
        return
    for name in ("where", "out"):
        if config[name] is not None:
            raise UserError(
                f"{name}= is for a page over many runs, and run= writes into the run's folder: leave out one."
            )
    run = finished_agent(config.run)
    dataset = dataset_of(run, settings_of(run), config.data.source)
    run_report.write(run_report.siblings(run), dataset, run_report.measure_windows(run, dataset))
    say((run.folder / "report" / "table.txt").read_text())
    say(f"figures: {run.folder / 'report'}")
    say(f"page: {run.folder / 'report' / 'index.html'}")
