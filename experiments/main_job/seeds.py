"""TD3+BC on halfcheetah-random, seed by seed: ``python experiments/main_job/seeds.py`` prints the intervals of
``td3_bc_halfcheetah_random_by_seed.csv`` and draws it. ``… seeds.py RUN [RUN]`` prints such lines of finished runs, the
one on real data first (of a single one: its scores).
"""

import json
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from pgd_lightning.config.build import build
from pgd_lightning.config.saved import settings_of
from pgd_lightning.evaluation.ledgers import episodes, scores_of
from pgd_lightning.evaluation.statistics import paired_interval, seed_interval
from pgd_lightning.report.drawing import GUIDED, INK, plt, save, styled
from pgd_lightning.runs.run import finished_agent

TABLE = Path(__file__).with_name("td3_bc_halfcheetah_random_by_seed.csv")


def lines(folders: list[str]) -> None:
    runs = [finished_agent(folder) for folder in folders]
    first = runs[0].record["seed"]
    rows = [episodes(run.rows("ledger.jsonl"), build(settings_of(run).env)) for run in runs]
    scores = np.stack([scores_of(row, "final").mean(1) for row in rows], 1)
    for number, of_seed in enumerate(scores):
        print(first + number, *(f"{score:.1f}" for score in of_seed), sep=",")


@styled
def draw(table: NDArray[np.float64]) -> None:
    """A line for each seed, over the conditions that it has; black where guided data score less than real data."""
    figure, axis = plt.subplots(figsize=(4.5, 3.5), layout="constrained")
    for _, *scores in table:
        known = np.flatnonzero(~np.isnan(scores))
        colour = GUIDED if scores[-1] > scores[0] else INK
        axis.plot(known, np.array(scores)[known], "o-", color=colour, linewidth=1, markersize=4)
    axis.set(xticks=range(3), xticklabels=["real data only", "real + unguided", "real + policy-guided"])
    axis.set(ylabel="normalised score", title=f"TD3+BC, halfcheetah-random, {len(table)} seeds", ylim=(0, None))
    path = TABLE.with_suffix(".png")
    save(figure, "", path)
    path.with_suffix(".svg").unlink()


def compared(one: NDArray[np.float64], other: NDArray[np.float64]) -> dict[str, str]:
    """Scores ``[N]`` of the same seeds: their difference, paired, and as of independent seeds."""
    welch = stats.ttest_ind(one, other, equal_var=False).confidence_interval()
    return {
        "paired": f"{paired_interval(one[:, None], other[:, None])}, p = {stats.ttest_rel(one, other).pvalue:.2g}",
        "Welch": f"{welch.low:.1f} to {welch.high:.1f}",
        "higher": f"{(one > other).sum()} of {len(one)}",
    }


def main() -> None:
    table = np.loadtxt(TABLE, delimiter=",", skiprows=1)
    _, real, unguided, guided = table.T
    known = ~np.isnan(unguided)
    print(json.dumps({
        "seeds": len(table), "real": str(seed_interval(real[:, None])), "guided": str(seed_interval(guided[:, None])),
        "guided - real": compared(guided, real),
        "seeds with unguided": int(known.sum()), "unguided": str(seed_interval(unguided[known, None])),
        "guided - unguided": compared(guided[known], unguided[known]),
        "unguided - real": compared(unguided[known], real[known]),
    }, indent=1))  # fmt: skip
    draw(table)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        lines(sys.argv[1:])
    else:
        main()
