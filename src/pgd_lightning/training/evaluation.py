"""Evaluation while an agent trains."""

from collections.abc import Callable
from typing import Any

from lightning import Callback, LightningModule, Trainer

from pgd_lightning.environment import EnvSpec
from pgd_lightning.evaluation.ledgers import EpisodeRow
from pgd_lightning.evaluation.rollout import rollout

Record = Callable[[list[EpisodeRow]], None]


class Evaluation(Callback):
    """Rolls the current policies out every ``every`` updates and hands each episode to ``record``.

    ``seeds`` are those of this process. Purpose ``monitor``: these episodes choose nothing. The policies of all seeds
    see the same start states, another set at each evaluation than at the final one. ``share`` is that of
    :func:`rollout`.
    """

    def __init__(
        self,
        env: EnvSpec,
        every: int,
        episodes: int,
        seeds: range,
        seed: int,
        record: Record,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        self.env, self.every, self.episodes = env, every, episodes
        self.seeds, self.seed, self.record = seeds, seed, record
        self.share = share

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step % self.every == 0:
            agent: Any = module
            result = rollout(
                self.env, agent.policy, len(self.seeds), self.episodes, self.seed, self.share, critic=agent.critic
            )
            rows = result.ledger(self.env, trainer.global_step, "monitor", self.seeds.start)
            self.record(rows)
            mean = float(result.returns.mean())
            score = self.env.score(mean, float(result.ended.mean()))
            logged = {"eval/return": mean} | ({} if score is None else {f"eval/{self.env.measure}": score})
            if result.expected is not None and result.earned is not None:
                logged |= {"eval/expected": float(result.expected.mean()), "eval/earned": float(result.earned.mean())}
            module.log_dict(logged, sync_dist=True)
