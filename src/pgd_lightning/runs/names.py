"""Agents, sources of experience and measures in words, as tables, figures and progress lines call them."""

from typing import NamedTuple


class Measure(NamedTuple):
    """What stands for an episode, or for many, in words."""

    name: str  # in a sentence and above a column; with an s there are several
    full: str  # at an axis
    unit: str = ""  # after a number in a sentence

    def said(self, value: object) -> str:
        """``value``, a number as text or an interval, by its name."""
        return f"{self.name} {value}{self.unit}"


# Under the names that ``EnvSpec.measure`` and ``run.json`` have for them.
MEASURES = {
    "success": Measure("success rate", "success rate [%]", " %"),
    "score": Measure("score", "normalised score [%]"),
    "return": Measure("return", "return"),
}

AGENTS = {
    "iql": "IQL",
    "td3_bc": "TD3+BC",
    "rebrac": "ReBRAC",
    "bc": "behaviour cloning",
    "diffusion_dice": "Diffusion-DICE",
}
NAMES = {
    "none": "real data only",
    "unguided": "real + unguided",
    "pgd": "real + policy-guided",
    "pets": "real + PETS",
}


def agent_name(name: str) -> str:
    """What the agent of this setting is called."""
    return AGENTS.get(name, name)


def label(generator: str) -> str:
    """The experience of an agent, in words."""
    return NAMES.get(generator, f"real + {generator}")
