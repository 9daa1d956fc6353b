"""The rows of ``pgd analyse`` as plain text."""

from pgd_lightning.evaluation.analysis import Analyst, WindowRow
from pgd_lightning.evaluation.fidelity import not_available
from pgd_lightning.evaluation.recorded_steps import Replay


def line(row: WindowRow) -> str:
    """A row in short."""
    head = f"{shortened(row['target']):<12}{row['label']:<20}"
    if not row["windows"]:
        return f"{head}no finite window"
    errors = f"{'no row to step':<57}"
    if row["dynamics_error_interval"] is not None:
        low, high = row["dynamics_error_interval"]
        errors = (
            f"{row['dynamics_error_median']:>11.2e} [{low:.1e}, {high:.1e}]{row['dynamics_error_p90']:>10.1e}"
            f"{row['reward_error']:>9.2g}{row['return_real']:>8.1f}"
        )
    return (
        f"{head}{row['log_likelihood']:>10.3f}{row['mean_density']:>10.3g}{errors}{row['behaviour_log_density']:>9.2f}"
        f"{row['data_distance']:>9.2f}{row['sample_distance']:>7.2f}{row['outside_box']:>9.1%}{late(row)}{ends(row)}"
    )


def late(row: WindowRow) -> str:
    """Late rewards, of the windows and of the target."""
    values = (row["late_reward"], row["late_reward_policy"])
    return "".join(f"{'-' if value is None else f'{value:.2f}':>8}" for value in values)


def shortened(target: str) -> str:
    """At most 11 characters of a target's name: of a folder the last ones, which tell it from others."""
    return target if len(target) <= 11 else f"…{target[-10:]}"


def ends(row: WindowRow) -> str:
    """Starts and terminals by the simulator, see :func:`~pgd_lightning.evaluation.fidelity.ends_judged`."""
    started = row["starts_after_end"]
    counts = (row["false_terminals"], row["terminals_checked"]), (row["missed_terminals"], row["others_checked"])
    false, missed = ("-" if None in pair else "{} of {}".format(*pair) for pair in counts)
    return f"{'-' if started is None else f'{started:.1%}':>8}{false:>12}{missed:>14}"


def table(rows: list[WindowRow], title: str, analyst: Analyst, floor: Replay | None) -> str:
    """All rows as plain text, with what the columns mean."""
    head = (
        f"{'target':<12}{'windows':<20}{'log pi':>10}{'mean pi':>10}{'error':>11} {'95 % interval':<18}{'90 %':>8}"
        f"{'reward':>9}{'return':>8}{'log p':>9}{'to data':>9}{'apart':>7}{'outside':>9}{'late':>8}{'earned':>8}"
        f"{'ended':>8}{'false ends':>12}{'missed ends':>14}"
    )
    resets = {row["reset"] for row in rows if row["windows"]}
    lost = sum(row["rows_not_resettable"] for row in rows if row["windows"])
    stepped = f"{analyst.simulator.physics}; resets {' and '.join(sorted(resets))}, {lost} rows could not be reset"
    if analyst.simulator.unresettable:
        stepped = not_available(analyst.simulator.unresettable)
    return (
        "\n".join(
            [
                title,
                stepped,
                "",
                head,
                *(line(row) for row in rows),
                "",
                *([said(floor)] if floor else []),
                "log pi, mean pi: mean over rows of the log density, of the density, of the action under the target",
                "error: one real step, squared, in the data's variance: median with interval over rows, 90 % quantile",
                "reward: median absolute error; return: what the simulator pays in a window",
                f"log p: density of (obs, action) under a mixture fitted to the data; held-out data: "
                f"{analyst.density.held_out:.2f}",
                "to data, apart: median distance to the nearest real row, between samples, in the data's std",
                "outside: share of rows with an observation that has a value which the data never reach",
                "late, earned: mean reward in the last quarter of the windows, and of the target itself, if it acts "
                "from their first states",
                "ended: share of steps that start where an episode has ended already; false, missed ends: terminals "
                "that the simulator does not confirm, other steps that end there",
            ]
        )
        + "\n"
    )


def said(floor: Replay) -> str:
    """The error that is the simulator's own."""
    return (
        f"floor: {floor.rows} recorded rows stepped from the file's {floor.state}: the largest component differs by "
        f"{floor.median:.1e} (median), {floor.most:.1e} (99 %), the reward by {floor.reward_median:.1e}"
    )
