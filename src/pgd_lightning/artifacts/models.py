"""The model behind a generator: trained once, found by rule by every agent on the same data.

A section of the config describes each model: ``prior`` PGD's diffusion model, others those of the baselines
(conf/model). A generator names its section (conf/generator), and several may share one.
"""

from collections.abc import Callable

import torch
from omegaconf import DictConfig

from pgd_lightning.artifacts.dataset import Dataset
from pgd_lightning.artifacts.find_or_make import find_or_make
from pgd_lightning.artifacts.training_settings import mirror_settings, trainer_settings
from pgd_lightning.config.build import build
from pgd_lightning.data.modules import WindowDataModule
from pgd_lightning.data.windows import PaddedWindows, StepWindows, Windows, split_padded, split_steps
from pgd_lightning.diffusion.denoiser import Denoiser
from pgd_lightning.errors import UserError
from pgd_lightning.evaluation.verdict import Verdict, verdict
from pgd_lightning.generators.codec import TrajectoryCodec
from pgd_lightning.generators.pgd import PGD
from pgd_lightning.generators.prior import DiffusionPrior
from pgd_lightning.generators.window_model import WindowModel
from pgd_lightning.networks.compiling import compile_networks
from pgd_lightning.randomness import derive_seed, seeded
from pgd_lightning.runs import identity, ranks
from pgd_lightning.runs.checkpoints import last_checkpoint
from pgd_lightning.runs.console import duration, say
from pgd_lightning.runs.run import Run
from pgd_lightning.simulators import make
from pgd_lightning.training.fit import ROWS, accelerator, fit
from pgd_lightning.training.until_flat import UntilFlat

TrainingSet = Windows | PaddedWindows | StepWindows
PRIOR = "prior"


def ready_model(config: DictConfig, dataset: Dataset, section: str) -> tuple[WindowModel, Run]:
    """The trained model of ``section``, read from its run or trained now, and its run."""
    settings = config[section]
    train, held_out = training_set(config, section, dataset)
    steps = steps_of(settings, train)
    model = build_model(config, section, steps)
    run = run_of_model(config, section, model, dataset, Run.at)
    if not run.finished:
        check_size(train, settings.batch_size, section, dataset)

    def make() -> None:
        train_model(model, run, config, section, steps, dataset, train, held_out)

    find_or_make(run, config, dataset.provenance, lambda: load_model(model, run, dataset), make)
    model.float()  # trainer.precision=64-true leaves it in double, and agents are trained in float32
    model.settle(held_out)
    compile_networks(model, config.trainer.get("compile"))
    say(f"{section}: trained model in {run.folder}", once=True)
    if isinstance(model, DiffusionPrior) and section == PRIOR and ranks.rank() == 0:
        say(f"prior: {judged(model, run, config, dataset).sentence(settings.verdict.limit)}", once=True)
    return model, run


def steps_of(settings: DictConfig, train: TrainingSet) -> int:
    """How many steps a model is trained, at most if it is trained until its loss is flat."""
    if settings.steps == "auto":
        return int(settings.auto.most)
    return int(settings.steps or settings.epochs * (len(train) // settings.batch_size))


def until_flat(auto: DictConfig) -> UntilFlat:
    """What ends a training of ``steps=auto``."""
    return UntilFlat(auto.minutes, auto.gain, auto.validations, auto.decay)


def length_of(settings: DictConfig, steps: int) -> str:
    """How long a model is trained, in words; ``steps`` of :func:`steps_of`."""
    if settings.steps == "auto":
        return f"until flat, at most {duration(60 * settings.auto.minutes)}"
    return f"{steps:,} steps"


def run_of_model(
    config: DictConfig, section: str, model: WindowModel, dataset: Dataset, find: Callable[..., Run]
) -> Run:
    """The run of the ``model`` of ``section``, by ``Run.at`` or ``Run.named``."""
    what = identity.model(config, section, dataset.file)
    return find(config.runs_dir, section, config.env.name, model.method, what, config.seed)


def trained_model(run: Run, config: DictConfig, dataset: Dataset, section: str) -> WindowModel:
    """The model of a finished run, ready to generate."""
    train, held_out = training_set(config, section, dataset)
    model = build_model(config, section, steps_of(config[section], train))
    load_model(model, run, dataset)
    model.float()
    model.settle(held_out)
    return model


def judged(model: DiffusionPrior, run: Run, config: DictConfig, dataset: Dataset) -> Verdict:
    """The one-step error of windows of the config's sampler, measured once and kept in ``run``."""
    sampler, settings, key = config.sampler, config.prior.verdict, verdict_key(config)
    known = run.record.get("verdicts", {})
    if "variance" not in known.get(key, {}):  # older verdicts lack it
        make_windows = PGD(
            model, build(sampler.function), sampler.num_steps, build(sampler.churn), None, config.data.horizon,
            sampler.batch_size, sampler.precision,
        )  # fmt: skip
        starts = torch.zeros(settings.windows, config.env.obs_dim, device=accelerator(config.trainer.accelerator))
        made = make_windows.generate(None, starts, config.seed).cpu()
        real = dataset.validation or dataset.train
        simulator = make(dataset.env.task, dataset.env.physics)
        found = verdict(
            simulator, made, real[torch.arange(len(real))[: settings.windows]], dataset.obs_std, settings.rows,
            config.seed,
        )  # fmt: skip
        known = known | {key: vars(found)}
        run.update(verdicts=known)
    return Verdict(**known[key])


def verdict_key(config: DictConfig) -> str:
    """Under which a prior's run keeps the verdict on windows of the config's sampler."""
    settings = config.prior.verdict
    return identity.digest([identity.kept(config.sampler, "sampler"), settings.windows, settings.rows])


def ready_prior(config: DictConfig, dataset: Dataset) -> tuple[WindowModel, Run]:
    """PGD's diffusion prior, see :func:`ready_model`."""
    return ready_model(config, dataset, PRIOR)


def training_set(config: DictConfig, section: str, dataset: Dataset) -> tuple[TrainingSet, TrainingSet | None]:
    """What a model learns from and what is held out.

    Windows; padded beyond terminals where its section says so; single steps where it holds out a share of them.
    """
    settings = config[section]
    if "held_out_steps" in settings:
        return split_steps(dataset.transitions, settings.held_out_steps, config.seed)
    if settings.get("padded", False):
        return split_padded(dataset.recording, config.data.horizon, config.data.validation, config.seed)
    return dataset.train.required(), dataset.validation


def build_model(config: DictConfig, section: str, steps: int) -> WindowModel:
    """An untrained model; the seed alone decides its first weights."""
    with seeded(config.seed, "prior/init"):
        if section == PRIOR:
            return build_prior(config, steps)
        untrained = build(config[section].model)
        return untrained(total_steps=steps, log_every=config[section].log_every, seed=config.seed)


def warn_of_width(config: DictConfig) -> None:
    """Warn if a step has more channels than the network features; on pen, twice the width divided errors by 15."""
    width, channels = config.network.get("features"), config.env.obs_dim + config.env.action_dim + 2
    if width is not None and width < channels:
        wider = 2 ** channels.bit_length()
        say(
            f"warning: the network has {width} features for the {channels} channels of {config.env.name}, so "
            f"windows may be inaccurate. network.features={wider} is slower and reduced the error on pen "
            "(experiments/fidelity)"
        )


def check_size(train: TrainingSet, batch_size: int, section: str, dataset: Dataset) -> None:
    """Raises UserError where the data do not fill a batch."""
    if batch_size % ranks.count():
        raise UserError(f"{section}.batch_size={batch_size} cannot be spread evenly over {ranks.count()} processes.")
    if len(train) < batch_size:
        kind, way_out = ("windows", " or data.stride=1") if isinstance(train, Windows) else ("steps", "")
        raise UserError(
            f"{dataset.provenance['path']} gives {len(train)} training {kind}, fewer than a batch of "
            f"{batch_size}: set {section}.batch_size={len(train)}{way_out}."
        )


def train_model(
    model: WindowModel,
    run: Run,
    config: DictConfig,
    section: str,
    steps: int,
    dataset: Dataset,
    train: TrainingSet,
    held_out: TrainingSet | None,
) -> None:
    """Train ``model`` in ``run``, from its newest checkpoint if there is one."""
    settings = config[section]
    if ranks.rank() == 0:  # DDP hands the units, which are buffers, to the others
        model.fit_units((train.rows if isinstance(train, PaddedWindows) else train).batches(1024))
    data = WindowDataModule(train, held_out, settings.batch_size, config.seed, steps)
    if section == PRIOR:
        warn_of_width(config)
    size = sum(p.numel() for p in model.parameters() if p.requires_grad)
    say(f"{section}: training {size:,} parameters, {length_of(settings, steps)}")
    fit(
        run, model, data, trainer_settings=trainer_settings(config),
        mirror=mirror_settings(config, dataset.provenance), title=section,
        steps=steps, log_every=settings.log_every, checkpoint_every=settings.checkpoint_every,
        callbacks=[until_flat(settings.auto)] if settings.steps == "auto" else [],
        check_val_every_n_epoch=None, val_check_interval=min(settings.validate_every, steps),
        limit_val_batches=8 if held_out else 0, spread=ROWS,
    )  # fmt: skip


def build_prior(config: DictConfig, steps: int) -> DiffusionPrior:
    """An untrained prior; the seed alone decides its first weights. Raises UserError where windows are too short."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.seed, "prior/init"))
        denoiser = Denoiser(build(config.network), build(config.process))
    if config.data.horizon < denoiser.network.min_length:
        raise UserError(
            f"data.horizon={config.data.horizon} is too short for network.num_blocks={config.network.num_blocks}, "
            f"whose windows have at least {denoiser.network.min_length} rows."
        )
    settings = config.prior
    return DiffusionPrior(
        denoiser=denoiser,
        codec=TrajectoryCodec(config.env.obs_dim, config.env.action_dim, settings.action_clip),
        learning_rate=settings.learning_rate,
        warmup_start=settings.warmup_start,
        ema_decay=settings.ema_decay,
        ema_every=settings.ema_every,
        muon=settings.muon,
        ema_ramp=settings.ema_ramp,
        total_steps=steps,
        log_every=settings.log_every,
        seed=config.seed,
        warmup_steps=settings.auto.warmup if settings.steps == "auto" else None,
    )


def load_model(module: WindowModel, run: Run, dataset: Dataset) -> None:
    """Fill ``module`` from a finished run. Raises UserError where the run is of another file or other dimensions."""
    found = run.record["provenance"]["sha256"]
    if found != dataset.provenance["sha256"]:
        raise UserError(
            f"The {module.name} in {run.folder} was trained on another file ({run.record['provenance']['label']}) than "
            f"the one in use ({dataset.label}): train one with the same env= and data.source=."
        )
    path = last_checkpoint(run)
    state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(
            f"The {module.name} {path} has other dimensions than this config: {str(error).splitlines()[1].strip()}"
        ) from error
