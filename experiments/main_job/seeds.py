"""TD3+BC on halfcheetah-random, seed by seed: ``python experiments/main_job/seeds.py`` prints the intervals of
``td3_bc_halfcheetah_random_by_seed.csv`` and draws it. ``… seeds.py RUN [RUN]`` prints such lines of finished runs, the
one on real data first (of a single one: its scores).
"""

import json
import sys
from pathlib import Path

import numpy as np
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
def draw(table: np.ndarray) -> None:
    """A line from each seed's score on real data to its score with guided data."""
    figure, axis = plt.subplots(figsize=(4.5, 3.5), layout="constrained")
    for _, real, guided, _ in table:
        axis.plot([0, 1], [real, guided], "o-", color=GUIDED if guided > real else INK, linewidth=1, markersize=4)
    axis.set(xticks=[0, 1], xticklabels=["real data only", "real + policy-guided"], xlim=(-0.4, 1.4), ylim=(0, None))
    axis.set(ylabel="normalised score", title=f"TD3+BC, halfcheetah-random, {len(table)} seeds")
    path = TABLE.with_suffix(".png")
    save(figure, "", path)
    path.with_suffix(".svg").unlink()


def main() -> None:
    table = np.loadtxt(TABLE, delimiter=",", skiprows=1)
    real, guided, unguided = table[:, 1:2], table[:, 2:3], table[:, 3:]
    known = ~np.isnan(unguided[:, 0])
    welch = stats.ttest_ind(guided[:, 0], real[:, 0], equal_var=False)
    low, high = welch.confidence_interval()
    print(json.dumps({
        "seeds": len(table), "real": str(seed_interval(real)), "guided": str(seed_interval(guided)),
        "paired": str(paired_interval(guided, real)), "p, paired": stats.ttest_rel(guided[:, 0], real[:, 0]).pvalue,
        "welch": f"{low:.1f} to {high:.1f}", "gain": int((guided > real).sum()),
        "seeds, unguided": int(known.sum()), "unguided": str(seed_interval(unguided[known])),
        "guided - unguided": str(paired_interval(guided[known], unguided[known])),
        "unguided - real": str(paired_interval(unguided[known], real[known])),
    }, indent=1))  # fmt: skip
    draw(table)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        lines(sys.argv[1:])
    else:
        main()
