"""A training that learns nothing and remembers every batch, with a generator that remembers who asked it."""

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from pgd_lightning.data.modules import SyntheticDataModule, SyntheticSettings
from pgd_lightning.trajectory import Trajectory, Transition


def steps(*shape: int, mark: float) -> Transition:
    """Steps whose reward is ``mark`` plus a running number."""
    reward = mark + torch.arange(torch.Size(shape).numel(), dtype=torch.float32).view(shape)
    return Transition(
        obs=torch.zeros(*shape, 2), action=torch.zeros(*shape, 1), reward=reward, next_obs=torch.zeros(*shape, 2),
        terminated=torch.zeros(shape, dtype=torch.bool), batch_size=shape,
    )  # fmt: skip


REAL, SYNTHETIC = steps(500, mark=0), steps(3, 400, mark=10_000)


class Recorder:
    """A generator whose windows carry the number of the policy that asked for them."""

    def __init__(self):
        self.seen, self.seeds = [], []

    def generate(self, policy, starts, seed):
        self.seeds.append(seed)
        version = -1.0 if policy is None else float(policy)
        self.seen.append(version)
        shape = (*starts.shape[:-1], 5)
        noise = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
        return Trajectory(
            obs=torch.zeros(*shape, 2), action=torch.zeros(*shape, 1), reward=100 * version + noise,
            terminated=torch.zeros(shape, dtype=torch.bool), batch_size=shape,
        )  # fmt: skip


class Counter(LightningModule):
    """Its policy is the number of updates made; it remembers every batch."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.batches = []
        self.automatic_optimization = False

    @property
    def policy(self):
        return int(self.weight.item())

    def training_step(self, batch, batch_idx):
        self.batches.append(batch.reward.clone())
        self.weight.data += 1
        self.optimizers().step()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def run(tmp_path, steps_to, resume=None, every=5, first_unguided=True, learner=Counter):
    module, generator = learner(), Recorder()
    settings = SyntheticSettings("blend", 16, 12, 10, 20, first_unguided, keep_terminal=False)
    data = SyntheticDataModule(REAL, generator, settings, seeds=[0, 1], total_steps=steps_to)
    trainer = Trainer(
        max_steps=steps_to, max_epochs=-1, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=every, save_top_k=-1)],
    )  # fmt: skip
    trainer.fit(module, data, ckpt_path=resume, weights_only=True)
    return module, generator
