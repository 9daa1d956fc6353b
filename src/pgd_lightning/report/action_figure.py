"""Do imagined actions follow the policy? Standardised, (a - mean) / std, they should be standard normal."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from scipy.stats import norm

from pgd_lightning.evaluation.statistics import Array
from pgd_lightning.report.drawing import INK, colours, legend_below, plt, save, styled

FAR = 4.5  # where the histogram ends; what lies beyond is counted in its legend


@styled
def standardised_actions(samples: Mapping[str, Array], title: str, path: Path) -> Path:
    """Histogram and quantiles of each ``name -> z [N]`` against the standard normal."""
    figure, (histogram, quantiles) = plt.subplots(1, 2, figsize=(9.6, 4), layout="constrained")
    grid = np.linspace(-FAR, FAR, 200)
    places = (np.arange(1, 400) - 0.5) / 400
    for (name, z), colour in zip(samples.items(), colours(samples).values(), strict=True):
        beyond = float((np.abs(z) > FAR).mean())
        label = f"{name}: std {z.std():.2f}" + (f", {beyond:.1%} beyond {FAR}" if beyond else "")
        bins = np.linspace(-FAR, FAR, 61)
        heights = np.histogram(z, bins)[0] / len(z) / (bins[1] - bins[0])
        histogram.stairs(heights, bins, color=colour, label=label)
        quantiles.plot(norm.ppf(places), np.quantile(z, places), color=colour, linewidth=1.2)
    histogram.plot(grid, norm.pdf(grid), color=INK, linestyle=":", label="standard normal")
    quantiles.plot(grid, grid, color=INK, linestyle=":")
    histogram.set(xlabel="(action - policy's mean) / policy's standard deviation", ylabel="density")
    quantiles.set(xlabel="quantile of the standard normal", ylabel="quantile of the actions", ylim=(-FAR, FAR))
    legend_below(figure, [histogram])
    return save(figure, title, path)
