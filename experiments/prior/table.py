"""Writes the ledger's tables into docs/prior.md, between the two markers: ``python table.py``."""

import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from statistics import geometric_mean
from typing import Any

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "prior.md"
MARKS = "<!-- from here on by experiments/prior/table.py -->", "<!-- to here -->"
USUAL = "ramped/ancestral-16"


def main() -> None:
    lines = [json.loads(line) for line in (HERE / "ledger.jsonl").read_text().splitlines()]
    before, _, rest = PAGE.read_text().partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    PAGE.write_text("\n".join([before + MARKS[0], "", *tables(lines), "", MARKS[1] + after]))


def tables(lines: list[dict[str, Any]]) -> Iterable[str]:
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = defaultdict(list)
    for line in lines:
        groups[line["data"], line["machine"], line["condition"]].append(line)
    torches = " and ".join(sorted({line["torch"] for line in lines}))
    budgets = ", ".join(sorted({f"{line['budget_s']:g} s" for line in lines}))
    yield (
        f"{len(lines)} runs of {budgets} processor time each, one thread, torch {torches}; of several seeds the "
        "geometric mean. Processors differ in speed, so only rows of the same one can be compared; the ratio is to the "
        "U-Net's seeds on it."
    )
    yield from ["", "### Networks and recipes", ""]
    yield "| data | processor | condition | seeds | steps | left at 0.01 / 0.1 / 1 | error, median | mean | U-Net's / its | diversity | distance |"  # noqa: E501
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
            processor = "Intel, AVX-512 and AMX" if machine.startswith("Intel") else machine
            cells = [data, processor, condition, numbers, steps, left, error, average, ratio, diversity, distance]
            yield f"| {' | '.join(cells)} |"
        real = [line["real"] for line in lines if line["data"] == data]
        yield (
            f"| {data} | | *nothing changes; the data* | | | | {mean(r['persistence_median'] for r in real):.2g}; "
            f"{mean(r['median'] for r in real):.1g} | {mean(r['persistence_mean'] for r in real):.2g}; "
            f"{mean(r['mean'] for r in real):.1g} | | 1 | 0 |"
        )
    yield from ["", "### Samplers, by evaluations: median error, diversity, distance", ""]
    yield "| data | condition | seed | sampler | 8 | 16 | 32 |"
    yield "|---|---|---|---|---|---|---|"
    for line in lines:
        for name in ("ancestral", "dpmpp_2m"):
            cells = [line["sampled"].get(f"ramped/{name}-{n}") for n in (8, 16, 32)]
            if all(cells):
                text = " | ".join(f"{c['median']:.2g}, {c['diversity']:.2f}, {c['energy']:.4f}" for c in cells)
                yield f"| {line['data']} | {line['condition']} | {line['seed']} | {name} | {text} |"
    yield from ["", "### Averages of the weights: median error", ""]
    yield "| data | condition | seed | steps | last weights | ramped | 0.995 every ten steps |"
    yield "|---|---|---|---:|---:|---:|---:|"
    for line in lines:
        errors = [line["sampled"][f"{name}/ancestral-16"]["median"] for name in ("last", "ramped", "published")]
        text = " | ".join(f"{e:.2g}" for e in errors)
        yield f"| {line['data']} | {line['condition']} | {line['seed']} | {line['steps']} | {text} |"


def mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values)


def sampled(runs: list[dict[str, Any]], key: str) -> float:
    return geometric_mean(run["sampled"][USUAL][key] for run in runs)


if __name__ == "__main__":
    main()
