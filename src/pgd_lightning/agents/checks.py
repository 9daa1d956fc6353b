"""What an agent watches while it trains: finite losses, and values that some return could reach."""

from torch import Tensor

from pgd_lightning.errors import UserError


def check_losses(losses: dict[str, Tensor], name: str, step: int, first: int, learning_rate: float) -> None:
    """Raises if a loss ``[S]`` is not finite, and names it; ``first`` is the number of the first learner."""
    for loss_name, loss in losses.items():
        broken = (~loss.isfinite()).nonzero()
        if len(broken):
            raise UserError(
                f"The {loss_name} loss of {name} is {loss[broken[0]].item()} at step {step} (learner "
                f"{first + int(broken[0])}): lower agent.learning_rate (now {learning_rate}) or look at the data; "
                "older checkpoints are kept."
            )


def value_warning(
    values: Tensor, largest_return: float, limit: float, name: str, step: int, first: int, generated: bool
) -> str | None:
    """What to say if a learner's mean value ``[S]`` is beyond ``limit``, else None; one that is not finite is too.

    ``largest_return`` is what the rewards of the recording allow, ``generated`` whether steps of a generator are
    trained on too.
    """
    worst = int(values.abs().argmax())
    if values[worst].abs() <= limit:
        return None
    way_out = "lower agent.learning_rate, or look at the rewards of the data"
    if generated:
        way_out = "lower synthetic.synthetic_batch or take generator=none, since synthetic data can explode the critic"
    return (
        f"The values of {name} average {values[worst].item():.3g} at step {step} (learner {first + worst}), but no "
        f"return of this data exceeds {largest_return:.3g} (the bound is {limit:.3g}): {way_out}."
    )
