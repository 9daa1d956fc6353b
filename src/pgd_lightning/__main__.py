"""``pgd COMMAND key=value …``: the commands are files of :mod:`pgd_lightning.commands`."""

import os
import signal
import sys
import traceback
from collections.abc import Callable
from importlib import import_module
from typing import Any

from pgd_lightning.errors import Stopped, UserError
from pgd_lightning.runs import operating_system
from pgd_lightning.runs.operating_system import INTERRUPTED

VERBS = {
    "demo": "what policy guidance does, in one picture of a maze, in minutes",
    "train": "train prior and agents on real and synthetic data, evaluate, write a report",
    "polygrad": "PolyGRAD online: collect, fit a world model, learn in imagination (also: train -cn polygrad)",
    "prior": "train the diffusion prior alone (train does it by itself)",
    "evaluate": "evaluate a trained agent again: run=<folder>",
    "generate": "write synthetic data as an HDF5 file in D4RL's layout: run=<folder> out=<file>",
    "export": "the policy of a trained agent as an ONNX file: run=<folder> out=<file>",
    "collect": "record this project's substitute dataset for a D4RL file",
    "check": "what is in a recording: a summary, a picture, and its one-step error in the simulator",
    "convert": "a recording to D4RL-layout HDF5 or a Minari dataset: data.source=<any> out=<file>",
    "analyse": "likelihood, dynamics error and coverage of generated windows, for several policies",
    "sweep": "train every combination of key=a,b that is not trained yet, one after the other",
    "slurm": "the same as one job array of a SLURM cluster",
    "ls": "all runs with their state, progress and score",
    "doctor": "is this machine ready for a job with these settings?",
    "report": "table and figures from the ledgers: run=<folder>",
    "dashboard": "a W&B workspace with this project's panels: entity=<user or team>",
}

TRAINING = ("train", "polygrad", "prior")  # may be run by several processes together
SEVERAL = ("sweep", "slurm", "doctor")  # take key=a,b
OUT_OF_MEMORY = (  # as torch, CUDA, its libraries, C++, oneDNN and numpy say it
    "can't allocate memory", "out of memory", "ALLOC_FAILED", "bad_alloc", "could not create a primitive",
    "Unable to allocate",
)  # fmt: skip

HELP = f"""usage: pgd COMMAND [key=value …] [--help] [--cfg] [--debug]

{chr(10).join(f"  {verb:<10}{text}" for verb, text in VERBS.items())}

  --help     an example of the command and its settings: what they mean, may be and are; --help all: every one
  --cfg      print the resolved config and stop
  --debug    show the traceback of an error

example: pgd train env=hopper-medium agent=td3_bc guidance.coef=2 scale=smoke"""


def main() -> int:
    """Run one verb. Exit code 0, or after one sentence on stderr 1, 75 (stopped by a signal, saved) or 130 (Ctrl-C)."""
    operating_system.prepare()
    with operating_system.leaving_at_once():
        return command()


def command() -> int:
    """:func:`main`, once the process is prepared."""
    flags = {a for a in sys.argv[1:] if a.startswith("-")}
    words = [a for a in sys.argv[1:] if not a.startswith("-")]
    if "-cn" in flags and len(words) > 1:  # Hydra's name for another config: pgd train -cn polygrad
        flags.remove("-cn")
        words = words[1:]
    wants_help = bool(flags & {"-h", "--help"})
    if not words or (wants_help and words[0] not in VERBS):
        print(HELP)
        return 0
    import_module("pgd_lightning.runs.console").quieten()
    try:
        if wants_help:
            explain(words[0], words[1:])
        else:
            run(words[0], words[1:], show_config="--cfg" in flags, unknown=flags - {"--cfg", "--debug"})
    except KeyboardInterrupt:
        print(INTERRUPTED, file=sys.stderr)
        return 128 + signal.SIGINT
    except (Exception, Stopped) as error:
        if "--debug" in flags:
            traceback.print_exc()
        return fail(error)
    return 0


def fail(error: Exception | Stopped) -> int:
    """Say what went wrong in one sentence, here or, as one of several ranks, through the launcher; the exit code."""
    if not isinstance(error, UserError | Stopped) and ran_out(error):
        error = UserError(
            "The memory does not suffice: lower sampler.batch_size (pgd generate: windows=), the windows that are "
            "sampled at once, or else seeds, other batch sizes, synthetic.num_windows or widths of networks; the "
            "same command continues from the last checkpoint. (--debug shows where)"
        )
    if isinstance(error, UserError | Stopped):
        text, code = str(error), error.exit_code
    else:
        text, code = f"{type(error).__name__}: {error} (--debug shows where)", 1
    if launched():
        import_module("pgd_lightning.commands.launch").report(error)
    else:
        print(f"\nerror: {text}", file=sys.stderr)
    return code


def ran_out(error: Exception) -> bool:
    """Whether a device, or the process, has no memory left."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in OUT_OF_MEMORY)


def explain(verb: str, words: list[str]) -> None:
    """Print an example of ``verb`` and its settings as they are with those typed; of the word ``all`` every one."""
    from pgd_lightning.commands import manual
    from pgd_lightning.config.compose import choices, combinations, composed_config

    overrides = require_settings([word for word in words if word != "all"])
    overrides = combinations(overrides)[0] if verb in SEVERAL else overrides
    config, chosen = composed_config(verb, overrides), choices(verb, overrides)
    print(manual.text(verb, VERBS[verb], config, chosen, everything="all" in words))


def require_settings(words: list[str]) -> list[str]:
    """``words``. Raises UserError where one of them is not key=value."""
    for word in words:
        if "=" not in word:
            raise UserError(f"'{word}' is not a setting: write key=value, for example env=hopper-medium.")
    return words


def run(verb: str, overrides: list[str], show_config: bool, unknown: set[str]) -> None:
    """Compose the config of ``verb`` and hand it over."""
    from pgd_lightning.config.compose import combinations, compose_config, handed
    from pgd_lightning.config.suggestions import nearest

    if verb not in VERBS:
        raise UserError(f"There is no command '{verb}': {nearest(verb, list(VERBS))}")
    if unknown:
        raise UserError(
            f"Unknown option {' '.join(sorted(unknown))}: settings are written key=value, see 'pgd --help'."
        )
    require_settings(overrides)
    if verb in SEVERAL:
        config = compose_config(verb, combinations(overrides)[0])
    else:
        overrides, config = handed() or (overrides, compose_config(verb, overrides))
    if show_config:
        from omegaconf import OmegaConf

        print(OmegaConf.to_yaml(config))
        return
    if verb not in SEVERAL and not launched():
        require_inputs(config)
    begin(verb, overrides, config)


def require_inputs(config: Any) -> None:
    """Raises UserError where the recording or the run that the command is about is not there."""
    from omegaconf import OmegaConf

    from pgd_lightning.data import sources
    from pgd_lightning.runs.folder import require_run

    if run := OmegaConf.select(config, "run"):
        require_run(run)
    if source := OmegaConf.select(config, "data.source"):
        sources.require(source, bool(OmegaConf.select(config, "data.download")))


def launched() -> bool:
    """Whether this process is a rank that this package's launcher started."""
    from pgd_lightning.config.compose import HANDED

    return HANDED in os.environ


def begin(verb: str, overrides: list[str], config: Any) -> None:
    """Load ``verb`` and run it: only now what it needs, of which torch alone takes seconds."""
    from pgd_lightning.runs.console import stopping_on_signals

    operating_system.keep_memory()
    main = import_module(f"pgd_lightning.commands.{verb}").main
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    with stopping_on_signals():
        if verb in TRAINING:
            together(verb, main, overrides, config)
        else:
            main(config, overrides)


def together(verb: str, main: Callable[[Any, list[str]], None], overrides: list[str], config: Any) -> None:
    """Run ``verb`` as one of several processes if it was started so, or start those."""
    from pgd_lightning.commands import doctor, launch
    from pgd_lightning.config.compose import default_scale

    if not launched():  # the launcher looked
        doctor.preflight(config)
    if launch.must_launch(config):
        launch.launch(verb, [*default_scale(verb, overrides), *overrides], config)
        return
    with launch.group(config):
        main(config, overrides)


if __name__ == "__main__":
    sys.exit(main())
