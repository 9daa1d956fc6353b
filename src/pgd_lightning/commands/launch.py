"""Processes that run one command together. torchrun's launcher starts them on one machine, srun on several.

The command is composed once; the ranks of one machine read the resolved config from a file, so nothing re-runs a
command line. Every rank runs the whole verb and all meet wherever a run begins, saves and ends; only the first prints
and writes. A rank that fails ends the group, and the run goes on from its last checkpoint when the command is repeated.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments import LightningEnvironment
from omegaconf import DictConfig, OmegaConf
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ErrorHandler, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from pgd_lightning.config.compose import HANDED
from pgd_lightning.errors import Stopped, Unreachable, UserError
from pgd_lightning.runs.ranks import environment, lost

SIGNALS = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1,SIGUSR2"  # what the launcher passes on
SILENT = "<NONE>"  # torch's message of a process that reported nothing
OWN, STOPPED, UNREACHABLE = UserError.__name__, Stopped.__name__, Unreachable.__name__
OTHER, LOST, ENDED = "an error of another class", "lost", "ended by the launcher"
CAUSES = [OWN, OTHER, LOST, STOPPED, UNREACHABLE, ENDED]  # of two ranks, the earlier is why the later ended


def per_node(config: DictConfig) -> int:
    """Processes on one machine that ``config.trainer`` asks for."""
    devices = config.trainer.devices
    return int(devices) if isinstance(devices, int) and devices > 0 else max(torch.cuda.device_count(), 1)


def nodes(config: DictConfig) -> int:
    """Machines that ``config.trainer`` asks for."""
    return int(config.trainer.num_nodes)


def must_launch(config: DictConfig) -> bool:
    """Whether this process has to start the ranks instead of being one."""
    return per_node(config) > 1 and isinstance(environment(), LightningEnvironment)


def launch(verb: str, overrides: list[str], config: DictConfig) -> None:
    """Start the ranks of this machine and wait for them.

    Raises Stopped if they were asked to stop, UserError with the first one's sentence if they failed or one was lost.
    """
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    settings = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=per_node(config),
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        signals_to_handle=SIGNALS,
        shutdown_timeout=config.ranks.patience,
    )
    with tempfile.TemporaryDirectory(prefix="pgd_ranks_") as folder:
        file = Path(folder) / "handed.json"
        resolved = OmegaConf.to_container(config, resolve=True)
        file.write_text(json.dumps({"argv": sys.argv, "verb": verb, "overrides": overrides, "config": resolved}))
        os.environ[HANDED] = str(file)
        try:
            elastic_launch(settings, sys.executable)("-m", "pgd_lightning", verb)
        except ChildFailedError as error:
            raise cause_of(error.failures) from None
        except SignalException as error:
            name = signal.Signals(error.sigval).name
            raise Stopped(f"Stopped by {name}; the same command continues.", error.sigval) from None
        finally:
            del os.environ[HANDED]


def cause_of(failures: dict[int, ProcessFailure]) -> UserError | Stopped:
    """One error for the group: that of the rank whose end caused the others', which miss it, abort, or are ended."""
    said = {number: _said(failure) for number, failure in failures.items()}
    places = {number: CAUSES.index(kind if kind in CAUSES else OTHER) for number, (kind, _) in said.items()}
    number = min(failures, key=lambda number: (places[number], number))
    kind, sentence = said[number]
    if kind in (LOST, ENDED):
        return UserError(
            f"Rank {number} was lost ({sentence}), so the others were ended; the same command continues from the last "
            "checkpoint."
        )
    if kind == STOPPED:
        return Stopped(sentence)
    return UserError(sentence if kind in CAUSES else f"Rank {number} failed with {kind}: {sentence}")


def _said(failure: ProcessFailure) -> tuple[str, str]:
    """The class of the error that a rank reported and its text; of one that ended without a word, how it ended."""
    message: Any = failure.error_file_data["message"]
    if message == SILENT:
        code = failure.exitcode
        kind = ENDED if code == -signal.SIGTERM else LOST
        return kind, signal.Signals(-code).name if code < 0 else f"exit code {code}"
    kind, _, sentence = str(message["message"] if isinstance(message, dict) else message).partition(": ")
    return kind, sentence


def report(error: BaseException) -> None:
    """Tell the launcher of this rank what it ended with."""
    if isinstance(error, RuntimeError):
        error = lost(error) or error
    own = isinstance(error, UserError) and not isinstance(error, Unreachable)
    ErrorHandler().record_exception(UserError(str(error)) if own else error)


@contextmanager
def group(config: DictConfig) -> Iterator[None]:
    """Inside, this process is one of the ranks, if there are several; only the first is heard."""
    env = environment()
    if isinstance(env, LightningEnvironment):
        yield
        return
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = env.main_address, str(env.main_port)
    gpu = torch.cuda.is_available() and config.trainer.accelerator != "cpu"
    if gpu:
        torch.cuda.set_device(env.local_rank())
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if gpu else "gloo",
        rank=env.global_rank(),
        world_size=env.world_size(),
        timeout=timedelta(seconds=config.ranks.timeout),
    )
    if env.global_rank() > 0:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  for the rest of this process
    yield
    dist.barrier()
    dist.destroy_process_group()
