"""Published numbers (of the papers and of their authors' code): a changed default of ``scale=paper`` fails here."""

import pytest
from omegaconf import OmegaConf

from pgd_lightning.config.build import build
from pgd_lightning.config.compose import compose_config
from pgd_lightning.config.ranges import of_group


def leaves(node, prefix=""):
    """Every setting of a config by its dotted key; a list, and a part without settings, is one."""
    if isinstance(node, dict) and node:
        return {k: v for key, child in node.items() for k, v in leaves(child, f"{prefix}{key}.").items()}
    return {prefix[:-1]: node}


def composed(verb, *overrides):
    return leaves(OmegaConf.to_container(compose_config(verb, ["scale=paper", *overrides])))


def expect(settings, numbers):
    assert {key: settings[key] for key in numbers} == numbers


PGD = {  # arXiv 2404.06356 and EmptyJackson/policy-guided-diffusion
    "data.horizon": 32, "data.stride": 8, "data.validation": 0.05,
    "network._target_": "pgd_lightning.networks.temporal_unet.TemporalUNet", "network.features": 1024,
    "network.num_blocks": 3, "network.groups": 8,
    "process.sigma_data": 1.0, "process.sigma_min": 0.002, "process.sigma_max": 80.0, "process.rho": 7.0,
    "process.p_mean": -1.2, "process.p_std": 1.2,
    "prior.steps": None, "prior.epochs": 10_000, "prior.batch_size": 32, "prior.learning_rate": 2e-3,
    "prior.warmup_start": 0.1, "prior.muon": False, "prior.ema_decay": 0.995, "prior.ema_every": 10,
    "prior.ema_ramp": None, "prior.action_clip": 0.999,
    "sampler.function._target_": "pgd_lightning.diffusion.samplers.heun", "sampler.num_steps": 256,
    "sampler.churn.amount": 80.0, "sampler.churn.noise_scale": 1.003, "sampler.churn.sigma_min": 0.05,
    "sampler.churn.sigma_max": 50.0, "sampler.churn.literal": True,
    "guidance._target_": "pgd_lightning.generators.guidance.Literal", "guidance.coef": 1.0, "guidance.cosine": 0.3,
    "guidance.denoised": True, "guidance.normalise": True,
    "updates": 1_000_000, "synthetic.mixing": "blend", "synthetic.batch_size": 256, "synthetic.synthetic_batch": 240,
    "synthetic.lifetime": 10_000, "synthetic.num_windows": 8192, "synthetic.keep_terminal": False,
    "agent.learning_rate": 3e-4, "agent.polyak": 0.005, "agent.lr_schedule": "constant", "agent.normalise_obs": False,
    "agent.learner.hidden": [256, 256], "agent.learner.discount": 0.99, "evaluation.episodes": 16,
}  # fmt: skip
IQL = {"agent.learner.expectile": 0.7, "agent.learner.temperature": 3.0, "agent.learner.max_weight": 100.0}
TD3_BC = {
    "agent.learner.q_weight": 2.5, "agent.learner.policy_noise": 0.2, "agent.learner.noise_clip": 0.5,
    "agent.learner.critic_updates": 2,
}  # fmt: skip
REBRAC = {  # arXiv 2305.09836 and tinkoff-ai/CORL, on locomotion
    "agent.learning_rate": 1e-3, "agent.adam_eps": 1e-8, "agent.polyak": 0.005, "agent.normalise_obs": False,
    "agent.learner.hidden": [256, 256, 256], "agent.learner.discount": 0.99, "agent.learner.policy_noise": 0.2,
    "agent.learner.noise_clip": 0.5, "agent.learner.critic_updates": 2, "synthetic.batch_size": 1024,
    "synthetic.synthetic_batch": 960,
}  # fmt: skip
WORLD = {  # of PolyGRAD, arXiv 2312.08533 and marc-rigter/polygrad-world-models
    "world.batch_size": 256, "world.width": 1024, "world.padded": True, "world.sampling.num_steps": 128,
    "world.network.num_blocks": 6, "world.network.min_features": 128, "world.network.waves": 16,
    "world.model.denoiser.process.num_levels": 128, "world.model.denoiser.process.max_beta": 0.999,
    "world.model.learning_rate": 3e-4, "world.model.ema_decay": 0.99, "world.model.ema_every": 10,
    "world.model.ema_after": 2000,
}  # fmt: skip
TRANSFORMER = "network@world.network=window_transformer"
RULE = {  # its guidance
    "_target_": "pgd_lightning.generators.guidance.OnPolicy", "coef": 0.005, "clip": 3.0, "noise": 1.0,
}  # fmt: skip
IMAGINED = {  # its imagination and A2C
    "generator.limit.size": 0.25, "generator.limit.levels": 10, "generator.num_steps": 128, "adaptation": 3e-3,
    "actor_rate": 3e-5, "policy_change": 0.01,
    **{f"guidance.{key}": value for key, value in RULE.items()},
    "learner.build.hidden": [256, 256], "learner.build.first_std": 1.0, "learner.build.min_std": 0.1,
    "learner.build.discount": 0.99, "learner.build.decay": 0.9, "learner.build.entropy": 1e-5,
    "learner.build.actor_rate": 3e-5, "learner.build.critic_rate": 3e-4, "learner.build.weight_decay": 0.01,
    "learner.build.max_grad_norm": 0.1, "learner.build.polyak": 0.005, "learner.build.control.target": 0.01,
    "learner.build.control.tolerance": 0.2, "learner.build.control.ratio": 0.8, "learner.build.control.tries": 50,
    "learner.build.control.adaptation": 3e-4, "learner.build.control.max_rate": 3e-5,
}  # fmt: skip
ONLINE = {
    "data.horizon": 10, "world.temperature": 0.1, "online.steps": 1_000_000, "online.prefill": 5000, "online.turn": 4,
    "online.patience": 1000, "online.world_updates": 4, "online.imagined": 1024, "evaluation.every": 10_000,
    "evaluation.episodes": 20,
}  # fmt: skip
BEHAVIOUR = {  # of Diffusion-DICE, arXiv 2407.20109 and its authors' code
    "pretraining.updates": 600_000, "pretraining.batch_size": 4096, "pretraining.width": 512,
    "pretraining.learning_rate": 1e-4, "pretraining.lr_schedule": "constant",
    "agent.learner.behaviour.width": 512, "agent.learner.behaviour.features": 32,
    "agent.learner.behaviour.time": "fourier30", "agent.learner.behaviour.process.beta_min": 0.1,
    "agent.learner.behaviour.process.beta_max": 20.0, "agent.learner.behaviour.process.time_min": 0.001,
    "agent.learner.behaviour.process.time_max": 1.0, "agent.learner.behaviour.process.label": "time",
    "agent.learner.behaviour.process.noise_law": "time", "agent.learner.behaviour.process.spacing": "time",
    "agent.learner.behaviour.process.to_zero": False,
}  # fmt: skip
DICE = {
    "updates": 1_000_000, "agent.learning_rate": 3e-4, "agent.weight_decay": 1e-4, "agent.adam_eps": 1e-8,
    "agent.polyak": 0.005, "agent.lr_schedule": "constant", "agent.normalise_obs": False,
    "agent.learner.hidden": [256, 256], "agent.learner.discount": 0.99, "agent.learner.temperature": 0.5,
    "agent.learner.max_weight": 100.0, "agent.learner.guidance_hidden": [256] * 4, "agent.learner.time": "fourier30",
    "agent.learner.guidance_start": "torch", "agent.learner.guidance_rule": "in_sample",
    "agent.learner.sampler._target_": "pgd_lightning.diffusion.samplers.dpmpp_2s", "agent.learner.num_steps": 15,
    "agent.learner.candidates": 1, "agent.learner.decision": "guide_then_select", "synthetic.batch_size": 512,
}  # fmt: skip
LOCOMOTION = {"agent.learner.ensemble": 10, "agent.learner.noise_copies": 16, "agent.learner.selection": "max"}
ANTMAZE = {"agent.learner.ensemble": 0, "agent.learner.noise_copies": 32, "agent.learner.selection": "softmax"}
PETS = {
    "ensemble.epochs": 400, "ensemble.batch_size": 256, "ensemble.held_out_steps": 0.2, "ensemble.model.members": 7,
    "ensemble.model.num_elites": 5, "ensemble.model.hidden": [200] * 4, "ensemble.model.log_var_bounds": [-10.0, 0.5],
    "ensemble.model.bound_weight": 0.01, "ensemble.model.learning_rate": 1e-3, "ensemble.model.adam_eps": 1e-5,
    "ensemble.model.weight_decay": 2.5e-5,
}  # fmt: skip
SYNTHER = {
    "synther.steps": 100_000, "synther.batch_size": 1024, "synther.width": 2048, "synther.sampling.num_steps": 128,
    "synther.sampling.churn.amount": 80.0, "synther.sampling.churn.noise_scale": 1.003,
    "synther.sampling.churn.literal": False, "synther.model.denoiser.network.num_blocks": 6,
    "synther.model.denoiser.network.features": 128, "synther.model.denoiser.network.waves": 16,
    "synther.model.learning_rate": 3e-4, "synther.model.betas": [0.9, 0.99], "synther.model.weight_decay": 0.0,
    "synther.model.gradient_norm": 1.0, "synther.model.ema_decay": 0.995, "synther.model.ema_every": 10,
    "synther.model.ema_after": 100,
}  # fmt: skip


@pytest.mark.parametrize(
    ("overrides", "numbers"),
    [
        (["agent=iql"], PGD | IQL),
        (["agent=td3_bc"], PGD | TD3_BC),
        (["agent=rebrac"], PGD | REBRAC),
        (["generator=pets"], PETS),
        (["generator=synther"], SYNTHER),
        (["generator=polygrad"], WORLD | {"world.steps": 1_000_000, "generator.build.generator.limit.size": 0.25}
         | {f"generator.build.guidance.{key}": value for key, value in RULE.items()}),
        *((["generator=polygrad", f"env={env}", *more], {"world.temperature": tau, "world.model.learning_rate": rate})
          for env, more, tau, rate in (("hopper-medium", [], 0.1, 3e-4), ("halfcheetah-medium", [], 1, 3e-4),
                                       ("hopper-medium", [TRANSFORMER], 1, 1e-4), ("walker2d-medium", [TRANSFORMER], 1, 1e-4))),
        (["agent=diffusion_dice_published"], BEHAVIOUR | DICE | LOCOMOTION),
        (["agent=diffusion_dice_antmaze_published", "env=antmaze-umaze"], BEHAVIOUR | DICE | ANTMAZE),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_the_papers_scale_has_the_published_numbers(overrides, numbers):
    expect(composed("train", *overrides), numbers)


@pytest.mark.parametrize(
    ("overrides", "numbers"),
    [
        (["env=hopper"], ONLINE),
        (["env=halfcheetah"], ONLINE | {"world.temperature": 1, "online.steps": 1_500_000}),
        (["env=walker2d"], ONLINE | {"world.temperature": 1, "online.steps": 1_500_000}),
        (["env=ant"], ONLINE | {"world.temperature": 1}),
    ],
)  # fmt: skip
def test_polygrad_online_has_the_published_numbers(overrides, numbers):
    expect(composed("polygrad", *overrides), WORLD | numbers | {f"online.{k}": v for k, v in IMAGINED.items()})


@pytest.mark.parametrize(
    ("env", "scale"),
    [*((f"{body}-{data}", 2.0 if data == "medium-expert" else 4.0) for body in ("hopper", "halfcheetah", "walker2d")
       for data in ("medium", "medium-replay", "medium-expert")),
     *((f"antmaze-{maze}", scale) for maze, scale in (("umaze", 1.0), ("umaze-diverse", 1.0), ("medium-play", 2.0),
       ("medium-diverse", 2.0), ("large-play", 4.0), ("large-diverse", 4.0)))],
)  # fmt: skip
def test_diffusion_dice_has_the_published_strength_of_guidance(env, scale):
    agent = "diffusion_dice_antmaze_published" if env.startswith("antmaze") else "diffusion_dice_published"
    assert composed("train", f"agent={agent}")[f"agent.learner.guidance_scale.table.{env}"] == scale


@pytest.mark.parametrize(
    ("env", "actor", "critic"),
    [("hopper-medium", 0.01, 0.01), ("hopper-medium-replay", 0.05, 0.5), ("halfcheetah-random", 0.001, 0.1),
     ("walker2d-random", 0.01, 0.0), ("antmaze-large-play", 0.002, 0.001), ("pen-human", 0.1, 0.5), ("ant-medium", 0.01, 0.01)],
)  # fmt: skip
def test_rebrac_has_the_published_penalties(env, actor, critic):
    """Where nothing is published (ant), those that are published most often."""
    learner = build(compose_config("train", ["agent=rebrac", "scale=smoke", f"env={env}"]).agent.learner)()
    assert (learner.actor_penalty, learner.critic_penalty) == (actor, critic)


def test_every_published_penalty_is_of_a_dataset_that_exists():
    learner = compose_config("train", ["agent=rebrac", "scale=smoke"]).agent.learner
    for table in (learner.actor_penalty.table, learner.critic_penalty.table):
        assert len(table) == 39
        assert set(table) <= set(of_group("env"))
