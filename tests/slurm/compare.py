"""Are the weights of the runs below two folders equal? ``compare.py ONE OTHER``; exit code 1 if not."""

import sys
from pathlib import Path

import torch


def last_weights(runs: Path) -> dict[str, dict[str, torch.Tensor]]:
    """The newest weights of every run, by the run's folder below ``runs``."""
    newest = {path.parents[1]: path for path in sorted(runs.glob("*/*/*/*/checkpoints/*.ckpt"))}
    return {
        str(folder.relative_to(runs)): torch.load(path, weights_only=True)["state_dict"]
        for folder, path in newest.items()
    }


def main(one: str, other: str) -> int:
    """Print a line for each run."""
    ours, theirs = last_weights(Path(one)), last_weights(Path(other))
    good = ours.keys() == theirs.keys()
    for name in sorted(ours.keys() & theirs.keys()):
        equal = all(torch.equal(ours[name][key], theirs[name][key]) for key in ours[name])
        good = good and equal
        print(f"{'equal bit for bit' if equal else 'DIFFERENT':<20}{name}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
