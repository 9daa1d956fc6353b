"""``pgd VERB key=value …``: the verbs are files of this package."""

import os
import sys
import traceback
import warnings
from importlib import import_module

from pgd_lightning.errors import UserError

VERBS = {
    "train": "prior -> agent on alternating real and synthetic data -> evaluation -> report",
    "prior": "train the diffusion prior alone (train does it by itself)",
    "evaluate": "roll a trained agent out once more: run=<folder>",
    "generate": "write a synthetic set as D4RL-layout HDF5: run=<folder> out=<file>",
    "collect": "record this project's stand-in for a D4RL file",
    "check": "a recording's data card, picture, and one-step error in the simulator",
    "convert": "a recording to D4RL-layout HDF5 or a Minari data set: data.source=<any> out=<file>",
    "analyse": "likelihood, dynamics error and coverage of generated windows, for several policies",
    "report": "table and figures from the ledgers: run=<folder>",
}

HELP = f"""usage: pgd VERB [key=value …] [--cfg] [--debug]

{chr(10).join(f"  {verb:<10}{text}" for verb, text in VERBS.items())}

  --cfg      print the resolved config and stop
  --debug    show the traceback of an error

example: pgd train env=hopper-medium agent=td3_bc guidance.coef=2 scale=smoke
Settings and their meaning: conf/*.yaml (env, agent, generator, guidance, sampler, scale, …)."""


def main() -> int:
    """Run one verb; exit code 0, or 1 after one sentence on stderr (130 after Ctrl-C)."""
    flags = {a for a in sys.argv[1:] if a.startswith("-")}
    words = [a for a in sys.argv[1:] if not a.startswith("-")]
    if not words or flags & {"-h", "--help"}:
        print(HELP)
        return 0
    try:
        run(words[0], words[1:], show_config="--cfg" in flags, unknown=flags - {"--cfg", "--debug"})
    except UserError as error:
        if "--debug" in flags:
            traceback.print_exc()
        print(f"\nerror: {error}", file=sys.stderr)
        return 1
    except Exception as error:
        if "--debug" in flags:
            raise
        print(f"\nerror: {type(error).__name__}: {error} (--debug shows where)", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; the same command continues from the last checkpoint", file=sys.stderr)
        return 130
    return 0


def quieten() -> None:
    """Set, before the libraries read it, how much they say: their hints are not about what our users do."""
    os.environ.setdefault("WANDB_SILENT", "true")
    for module in ("lightning.*", "torch.*", "tensordict.*", "torchrl.*", "wandb.*"):
        warnings.filterwarnings("ignore", module=module)


def run(verb: str, overrides: list[str], show_config: bool, unknown: set[str]) -> None:
    """Compose the config of ``verb`` and hand it over."""
    quieten()
    from pgd_lightning.configuration import compose_config, nearest

    if verb not in VERBS:
        raise UserError(f"There is no verb '{verb}': {nearest(verb, list(VERBS))}")
    if unknown:
        raise UserError(
            f"Unknown option {' '.join(sorted(unknown))}: settings are written key=value, see 'pgd --help'."
        )
    if any("=" not in o for o in overrides):
        bad = next(o for o in overrides if "=" not in o)
        raise UserError(f"'{bad}' is not a setting: write key=value, for example env=hopper-medium.")
    config = compose_config(verb, overrides)
    if show_config:
        from omegaconf import OmegaConf

        print(OmegaConf.to_yaml(config))
        return
    import_module(f"pgd_lightning.{verb}").main(config, overrides)


if __name__ == "__main__":
    sys.exit(main())
