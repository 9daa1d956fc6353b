"""Agents and sources of experience in words, as tables, figures and progress lines call them."""

AGENTS = {
    "iql": "IQL",
    "td3_bc": "TD3+BC",
    "rebrac": "ReBRAC",
    "bc": "behaviour cloning",
    "diffusion_dice": "Diffusion-DICE",
}
NAMES = {"none": "real data only", "unguided": "real + unguided", "pgd": "real + policy-guided", "pets": "real + PETS"}


def agent_name(name: str) -> str:
    """What the agent of this setting is called."""
    return AGENTS.get(name, name)


def label(generator: str) -> str:
    """The experience of an agent, in words."""
    return NAMES.get(generator, f"real + {generator}")
