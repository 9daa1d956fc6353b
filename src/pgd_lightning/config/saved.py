"""The settings that a run folder keeps."""

from omegaconf import DictConfig, OmegaConf
from yaml import YAMLError

from pgd_lightning.config.ranges import CONF
from pgd_lightning.runs.folder import RunFolder, damaged

BEFORE = {"prior.muon": False, "prior.ema_ramp": None, "data.terminals": "recorded"}  # settings of runs that lack them


def as_text(config: DictConfig) -> str:
    """``config`` as it is kept, resolved."""
    return OmegaConf.to_yaml(config, resolve=True)


def asked_as(run: RunFolder, config: DictConfig) -> bool:
    """Whether the last start of ``run`` had just these settings."""
    path = run.folder / "config.yaml"
    return path.exists() and path.read_text() == as_text(config)


def settings_of(run: RunFolder) -> DictConfig:
    """The settings of the last start; what there was not yet in an older version is as that version trained."""
    path = run.folder / "config.yaml"
    try:
        config = OmegaConf.load(path)
    except (OSError, ValueError, YAMLError) as error:
        raise damaged(path, str(error).splitlines()[0]) from error
    if not isinstance(config, DictConfig):
        raise damaged(path, "it holds no settings")
    newer = OmegaConf.load(str(CONF / "data" / "default.yaml"))  # a run that does not say how data are read: as usual
    for key, value in ({f"data.{name!s}": value for name, value in newer.items()} | BEFORE).items():
        section, _, name = key.partition(".")
        if section in config and name not in config[section]:
            OmegaConf.update(config, key, value, force_add=True)
    return config
