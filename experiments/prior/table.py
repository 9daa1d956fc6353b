"""Writes the ledgers' tables into docs/prior.md, between the two markers, and draws their figures."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from statistics import geometric_mean
from typing import Any

from pgd_lightning.report.drawing import GUIDED, OTHERS, UNGUIDED, legend_below, plt, save, styled

HERE = Path(__file__).parent
DOCS = HERE.parents[1] / "docs"
PAGE = DOCS / "prior.md"
MARKS = "<!-- from here on by experiments/prior/table.py -->", "<!-- to here -->"
SEEDS = 0, 1, 2
USUAL = "ramped/ancestral-16"
BUDGET = 240.0  # s of processor time; runs of others stand in the text


def main() -> None:
    ledger = [json.loads(line) for line in (HERE / "ledger.jsonl").read_text().splitlines()]
    lines = [line for line in ledger if line["budget_s"] == BUDGET]
    before, _, rest = PAGE.read_text().partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    guided = [json.loads(line) for line in (HERE / "guided.jsonl").read_text().splitlines()]
    PAGE.write_text("\n".join([before + MARKS[0], "", *tables(lines), *guided_table(guided), "", MARKS[1] + after]))
    draw_curves(lines, DOCS / "prior_curves.png")
    draw_planes(guided, DOCS / "prior_guided.png")


def tables(lines: list[dict[str, Any]]) -> Iterable[str]:
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = defaultdict(list)
    for line in lines:
        groups[line["data"], session(line), line["condition"]].append(line)
    torches = " and ".join(sorted({line["torch"] for line in lines}))
    yield (
        f"{len(lines)} runs of {BUDGET:g} s processor time each, one thread, torch {torches}; of several seeds the "
        "geometric mean. Processors, and the same one at other times, differ in speed, so only rows of one session can "
        "be compared; the ratio is to the U-Net's seeds in it."
    )
    yield from ["", "### The U-Net's error over the default's", ""]
    yield "| data | " + " | ".join(f"seed {seed}" for seed in SEEDS) + " | geometric mean |"
    yield "|---|" + "---:|" * (len(SEEDS) + 1)
    for data in dict.fromkeys(data for data, *_ in groups):
        ratios = [ratio_of(groups, data, seed) for seed in SEEDS]
        known = [value for value in ratios if value]
        cells = [f"{value:.1f}" if value else "" for value in [*ratios, geometric_mean(known) if known else None]]
        yield f"| {data} | {' | '.join(cells)} |"
    yield from ["", "### Networks and recipes", ""]
    yield "| data | session | condition | seeds | steps | left at 0.01 / 0.1 / 1 | error, median | mean | U-Net's / its | diversity | distance |"  # noqa: E501
    yield "|---|---|---|---|---:|---|---:|---:|---:|---:|---:|"
    for data in dict.fromkeys(data for data, *_ in groups):
        for machine, condition in ((m, c) for d, m, c in sorted(groups, key=lambda key: key[1]) if d == data):
            runs, usual = groups[data, machine, condition], groups.get((data, machine, "unet"), [])
            seeds = {run["seed"] for run in runs}
            same = [run for run in usual if run["seed"] in seeds] or usual
            ratio = f"{sampled(same, 'median') / sampled(runs, 'median'):.1f}" if same else ""
            left = " / ".join(f"{mean(run['left']['ramped'][s] for run in runs):.2g}" for s in ("0.01", "0.1", "1.0"))
            error, average, diversity = (f"{sampled(runs, k):.2g}" for k in ("median", "mean", "diversity"))
            steps = f"{mean(run['steps'] for run in runs):.0f}"
            distance = f"{mean(run['sampled'][USUAL]['energy'] for run in runs):.4f}"
            numbers = ", ".join(map(str, sorted(seeds)))
            cells = [data, machine, condition, numbers, steps, left, error, average, ratio, diversity, distance]
            yield f"| {' | '.join(cells)} |"
        real = [line["real"] for line in lines if line["data"] == data]
        yield (
            f"| {data} | | *nothing changes; the data* | | | | {mean(r['persistence_median'] for r in real):.2g}; "
            f"{mean(r['median'] for r in real):.1g} | {mean(r['persistence_mean'] for r in real):.2g}; "
            f"{mean(r['mean'] for r in real):.1g} | | 1 | 0 |"
        )
    yield from small_tables(lines)


def small_tables(lines: list[dict[str, Any]]) -> Iterable[str]:
    """Samplers, and averages of the weights: geometric means over all runs of a condition on a recording."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for line in lines:
        groups[line["data"], line["condition"]].append(line["sampled"])
    yield from ["", "### Samplers, by evaluations: median error, diversity, distance", ""]
    yield "| data | condition | runs | sampler | 8 | 16 | 32 |"
    yield "|---|---|---|---|---|---|---|"
    for (data, condition), runs in sorted(groups.items()):
        for name in ("ancestral", "dpmpp_2m"):
            names = [f"ramped/{name}-{n}" for n in (8, 16, 32)]
            compared = [run for run in runs if all(name in run for name in names)]
            if compared:
                text = " | ".join(
                    f"{geometric_mean(run[n]['median'] for run in compared):.2g}, "
                    f"{mean(run[n]['diversity'] for run in compared):.2f}, "
                    f"{mean(run[n]['energy'] for run in compared):.4f}"
                    for n in names
                )
                yield f"| {data} | {condition} | {len(compared)} | {name} | {text} |"
    yield from ["", "### Averages of the weights: median error", ""]
    yield "| data | condition | runs | last weights | ramped | 0.995 every ten steps |"
    yield "|---|---|---|---:|---:|---:|"
    for (data, condition), runs in sorted(groups.items()):
        text = " | ".join(
            f"{geometric_mean(run[f'{name}/ancestral-16']['median'] for run in runs):.2g}"
            for name in ("last", "ramped", "published")
        )
        yield f"| {data} | {condition} | {len(runs)} | {text} |"


def guided_table(lines: list[dict[str, Any]]) -> Iterable[str]:
    """Under each policy, the usual sampler."""
    yield from ["", "### Guided windows: 16 ancestral steps", ""]
    yield "| data | policy | guidance | distance of actions | error, median | mean | diversity | seconds |"
    yield "|---|---|---|---:|---:|---:|---:|---:|"
    for line in lines:
        sampler, guidance = line["sampled"].split("/")
        if sampler == "euler_ancestral-16":
            numbers = [f"{line[k]:.2g}" for k in ("distance", "median", "mean", "diversity", "seconds")]
            yield f"| {line['data']} | {line['agent']} | {guidance.replace('-', ' ')} | {' | '.join(numbers)} |"


@styled
def draw_curves(lines: list[dict[str, Any]], path: Path) -> None:
    """Error against training time, a panel for each recording, a line for each seed."""
    shown = {"unet": ("published U-Net, Adam", UNGUIDED), "resnet-muon": ("residual convolutions, Muon", GUIDED)}
    timed = [line for line in lines if line["condition"] in shown and line.get("curve")]
    pairs = Counter((line["data"], session(line), line["seed"]) for line in timed)
    chosen = [line for line in timed if pairs[line["data"], session(line), line["seed"]] == len(shown)]
    names = list(dict.fromkeys(line["data"] for line in chosen))
    columns = 3
    figure, axes = plt.subplots(
        -(-len(names) // columns), columns, figsize=(10, 3 * -(-len(names) // columns)), layout="constrained",
        squeeze=False,
    )  # fmt: skip
    for axis in axes.flat[len(names) :]:
        axis.set_visible(False)
    for name, axis in zip(names, axes.flat, strict=False):
        for line in (line for line in chosen if line["data"] == name):
            label, colour = shown[line["condition"]]
            points = line["curve"] | {f"{line['budget_s']:g}": line["sampled"][USUAL]["median"]}
            axis.plot([float(t) for t in points], points.values(), "o-", color=colour, label=label, markersize=3)
        still = next(line["real"]["persistence_median"] for line in chosen if line["data"] == name)
        axis.axhline(still, linestyle=":", color="grey", label="predicting no change")
        axis.set(xscale="log", yscale="log", title=name, xticks=[30, 60, 120, 240], xticklabels=[30, 60, 120, 240])
        axis.minorticks_off()
        axis.set(xlabel="seconds of training", ylabel="median one-step error")
    legend_below(figure, axes.flat[: len(names)], 3)
    save(figure, "", path)
    path.with_suffix(".svg").unlink()


@styled
def draw_planes(lines: list[dict[str, Any]], path: Path) -> None:
    """Error against the actions' distance to the policy: a panel for each policy, a line for each sampler and rule."""
    keys = list(dict.fromkeys((line["data"], line["agent"]) for line in lines))
    figure, axes = plt.subplots(
        len(keys), 2, figsize=(9, 3 * len(keys)), layout="constrained", squeeze=False, sharex=True, sharey="row"
    )
    colours = dict(zip((f"{s}-{n}" for s in ("euler_ancestral", "dpmpp_2m") for n in (8, 16, 32)), OTHERS, strict=True))
    for (data, agent), row in zip(keys, axes, strict=True):
        for rule, axis in zip(("literal", "score"), row, strict=True):
            for sampler, colour in colours.items():
                chosen = [
                    line for line in lines
                    if (line["data"], line["agent"]) == (data, agent)
                    and line["sampled"].split("/")[0] == sampler
                    and line["sampled"].split("/")[1].split("-")[0] in ("none", rule)
                ]  # fmt: skip
                name = sampler.replace("euler_ancestral-", "ancestral, ").replace("dpmpp_2m-", "DPM-Solver++(2M), ")
                points = [(line["distance"], line["median"]) for line in chosen]
                nearest = points.index(min(points, default=None)) if points else 0  # stronger guidance overshoots
                axis.plot(
                    *zip(*points[: nearest + 1], strict=True) if points else ((), ()),
                    "o-",
                    color=colour,
                    label=f"{name} steps",
                    markersize=3,
                )
            axis.set(xscale="log", yscale="log", ylabel="median one-step error")
            axis.set(xlabel="mean squared distance of actions to the policy's")
            axis.set_title(f"{data}, {agent}: guidance={rule}", fontsize=10)
    legend_below(figure, axes.flat, 3)
    save(figure, "", path)
    path.with_suffix(".svg").unlink()


def ratio_of(groups: dict[tuple[str, str, str], list[dict[str, Any]]], data: str, seed: int) -> float | None:
    """Of one seed, both networks in the same session; the latest where there are several."""
    found = None
    for machine in dict.fromkeys(session for name, session, _ in groups if name == data):  # as they were run
        runs = [[r for r in groups.get((data, machine, c), []) if r["seed"] == seed] for c in ("unet", "resnet-muon")]
        if all(runs):
            found = sampled(runs[0], "median") / sampled(runs[1], "median")
    return found


def session(line: dict[str, Any]) -> str:
    """Runs of one machine in one go, with one state of the code and one recording: their times can be compared."""
    windows = f", {line['windows']:,} windows" if "windows" in line else ""
    if line["machine"].startswith("Intel"):
        return f"Intel, AVX-512 and AMX{windows}"
    return f"{line['machine']}, commit {line['commit'].removesuffix('-dirty')}{windows}"


def mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values)


def sampled(runs: list[dict[str, Any]], key: str) -> float:
    return geometric_mean(run["sampled"][USUAL][key] for run in runs)


if __name__ == "__main__":
    main()
