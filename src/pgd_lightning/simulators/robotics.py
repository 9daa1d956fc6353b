"""Gymnasium-Robotics, without what it prints when it is imported."""

import contextlib
import io
import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Any


def robotics(module: str, make: Callable[[Any], Any]) -> Any:
    """``make(gymnasium_robotics.envs.<module>)``.

    It calls the environments used here outdated, on stderr and by warnings; their models are those that D4RL's data
    were recorded in, and what is wrong with their rewards is mended here.
    """
    with warnings.catch_warnings(action="ignore"), contextlib.redirect_stderr(io.StringIO()):
        return make(import_module(f"gymnasium_robotics.envs.{module}"))
