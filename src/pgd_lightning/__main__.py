"""``pgd VERB key=value …``: the verbs are files of this package."""

import os
import sys
import traceback
import warnings
from importlib import import_module
from typing import Any

from pgd_lightning.errors import Stopped, UserError

VERBS = {
    "train": "prior -> agent on alternating real and synthetic data -> evaluation -> report",
    "polygrad": "PolyGRAD online: collect, fit a world model, learn in imagination (also: train -cn polygrad)",
    "imagine": "PolyGRAD offline: clone, then improve in a world model of the recording (also: train -cn imagine)",
    "prior": "train the diffusion prior alone (train does it by itself)",
    "evaluate": "roll a trained agent out once more: run=<folder>",
    "generate": "write a synthetic set as D4RL-layout HDF5: run=<folder> out=<file>",
    "collect": "record this project's stand-in for a D4RL file",
    "check": "a recording's data card, picture, and one-step error in the simulator",
    "convert": "a recording to D4RL-layout HDF5 or a Minari data set: data.source=<any> out=<file>",
    "analyse": "likelihood, dynamics error and coverage of generated windows, for several policies",
    "sweep": "train every combination of key=a,b that is not trained yet, one after the other",
    "slurm": "the same as one job array of a SLURM cluster",
    "ls": "all runs with their state, progress and score",
    "doctor": "is this machine ready for a job with these settings?",
    "report": "table and figures from the ledgers: run=<folder>",
    "dashboard": "a W&B workspace with this project's panels: entity=<user or team>",
}

TRAINING = ("train", "polygrad", "imagine", "prior")  # may be run by several processes together
SEVERAL = ("sweep", "slurm", "doctor")  # take key=a,b

HELP = f"""usage: pgd VERB [key=value …] [--cfg] [--debug]

{chr(10).join(f"  {verb:<10}{text}" for verb, text in VERBS.items())}

  --cfg      print the resolved config and stop
  --debug    show the traceback of an error

example: pgd train env=hopper-medium agent=td3_bc guidance.coef=2 scale=smoke
Settings and their meaning: conf/*.yaml (env, agent, generator, guidance, sampler, scale, …)."""


def main() -> int:
    """Run one verb. Exit code 0, or after one sentence on stderr 1, 75 (stopped by a signal, saved) or 130 (Ctrl-C)."""
    flags = {a for a in sys.argv[1:] if a.startswith("-")}
    words = [a for a in sys.argv[1:] if not a.startswith("-")]
    if "-cn" in flags and len(words) > 1:  # Hydra's name for another config: pgd train -cn polygrad
        flags.remove("-cn")
        words = words[1:]
    if not words or flags & {"-h", "--help"}:
        print(HELP)
        return 0
    quieten()
    from pgd_lightning.progress import stopping_on_signals

    try:
        with stopping_on_signals():
            run(words[0], words[1:], show_config="--cfg" in flags, unknown=flags - {"--cfg", "--debug"})
    except KeyboardInterrupt:
        print("\ninterrupted; the same command continues from the last checkpoint", file=sys.stderr)
        return 130
    except (Exception, Stopped) as error:
        if "--debug" in flags:
            traceback.print_exc()
        return fail(error)
    return 0


def fail(error: Exception | Stopped) -> int:
    """Say what went wrong in one sentence, here or, as one of several ranks, through the launcher; the exit code."""
    from pgd_lightning import ranks

    text = (
        str(error)
        if isinstance(error, UserError | Stopped)
        else f"{type(error).__name__}: {error} (--debug shows where)"
    )
    if not ranks.report(error):
        print(f"\nerror: {text}", file=sys.stderr)
    return error.exit_code if isinstance(error, UserError | Stopped) else 1


def quieten() -> None:
    """Set, before the libraries read it, how much they say: their hints are not about what our users do."""
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # to W&B itself: without a network the exit waits for it
    for module in ("lightning.*", "torch.*", "tensordict.*", "torchrl.*", "wandb.*"):
        warnings.filterwarnings("ignore", module=module)


def run(verb: str, overrides: list[str], show_config: bool, unknown: set[str]) -> None:
    """Compose the config of ``verb`` and hand it over."""
    from pgd_lightning import ranks
    from pgd_lightning.configuration import combinations, compose_config, default_scale, nearest

    if verb not in VERBS:
        raise UserError(f"There is no verb '{verb}': {nearest(verb, list(VERBS))}")
    if unknown:
        raise UserError(
            f"Unknown option {' '.join(sorted(unknown))}: settings are written key=value, see 'pgd --help'."
        )
    if any("=" not in o for o in overrides):
        bad = next(o for o in overrides if "=" not in o)
        raise UserError(f"'{bad}' is not a setting: write key=value, for example env=hopper-medium.")
    if verb in SEVERAL:
        config = compose_config(verb, combinations(overrides)[0])
    else:
        overrides, config = ranks.handed() or (overrides, compose_config(verb, overrides))
    if show_config:
        from omegaconf import OmegaConf

        print(OmegaConf.to_yaml(config))
    elif verb in TRAINING and ranks.must_launch(config):
        from pgd_lightning import doctor

        doctor.preflight(config)
        ranks.launch(verb, [*default_scale(verb, overrides), *overrides], config)
    else:
        start(verb, overrides, config)


def start(verb: str, overrides: list[str], config: Any) -> None:
    """Run ``verb`` in this process, as one of several if it was started so."""
    main = import_module(f"pgd_lightning.{verb}").main
    if verb not in TRAINING:
        main(config, overrides)
        return
    from pgd_lightning import doctor, ranks

    if not ranks.handed():  # the launcher looked
        doctor.preflight(config)
    with ranks.group(config):
        main(config, overrides)


if __name__ == "__main__":
    sys.exit(main())
