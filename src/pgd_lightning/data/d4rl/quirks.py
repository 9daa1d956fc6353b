"""What is irregular in D4RL's files, and what the loader makes of it; by family in ``families.py``.

Sources: the D4RL repository and its issues, by number. Whatever was done or found is said in one sentence of the
recording's ``notes``; nothing is repaired in silence.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pgd_lightning.data.d4rl.families import Columns, episode_ends, episode_lengths, family
from pgd_lightning.environment import EnvSpec
from pgd_lightning.errors import UserError


class TimeLimitsAsEnds(UserError):
    """Terminals that are certainly time limits, if the file is of the environment that it is read as."""


POSSIBLE = (-100.0, 300.0)  # scores in percent between which every task lies, with room to spare
KNOWN = {"observations", "actions", "rewards", "terminals", "timeouts", "next_observations", "infos", "metadata"}
MOST_NAMED = 8  # of unknown keys


def infer_ends(columns: Columns, env: EnvSpec, missing_timeouts: str, name: str) -> list[str]:
    """Fill in ``timeouts`` [L] of a file that has none, where possible from the rows with a successor of their own.

    The gym files of v0 lack them. Counting to 1,000, as ``d4rl.qlearning_dataset`` does, is wrong for them (D4RL issues
    22 and 40). Raises UserError where rows of two episodes would be joined and nothing tells where.
    """
    terminals = columns["terminals"]
    if 0 < len(columns.get("successor_rows", ())) <= len(terminals) // 2:  # more are no ends but other numbers
        columns["timeouts"][columns["successor_rows"]] = True
        columns["timeouts"] &= ~terminals
        found = int(columns["timeouts"][:-1].sum())
        return [f"no 'timeouts' in the file: {found} ends found where next_observations is not the following row"]
    if family(env.task) == "kitchen":
        return ["no 'timeouts' in the file: 'terminals' mark where a demonstration ends, not where a task is done"]
    longest = int(np.diff(np.flatnonzero(np.concatenate([[True], terminals[:-1], [True]]))).max())
    if family(env.task) != "gym" or longest <= env.limit + 1:
        return ["the file has no 'timeouts': episodes end at terminals alone"]
    if missing_timeouts == "error":
        raise UserError(
            f"{name} has neither 'timeouts' nor 'next_observations', and {longest} rows without a terminal where "
            f"{env.limit} are the limit: nobody can tell where its episodes end. Take the v2 file, or set "
            f"data.missing_timeouts=horizon to cut after {env.limit} rows as d4rl does."
        )
    cut = _cut_at_horizon(terminals, env.limit)
    columns["timeouts"] |= cut
    return [f"the file has no 'timeouts': {int(cut.sum())} cuts after {env.limit} rows are guesses"]


def _cut_at_horizon(terminals: NDArray[Any], limit: int) -> NDArray[np.bool_]:
    rows = np.arange(len(terminals))
    first = np.concatenate([[0], rows[:-1][terminals[:-1]] + 1])
    since = rows - first[np.searchsorted(first, rows, side="right") - 1]
    return (since % limit == limit - 1) & ~terminals


def foreign_keys(found: Mapping[str, int | None], rows: int) -> list[str]:
    """Name what is not read: keys that no D4RL file has, and ``infos`` that are out of step with the ``rows``."""
    notes = []
    unknown = [key for key in found if key.partition("/")[0] not in KNOWN]
    if unknown:
        more = f" and {len(unknown) - MOST_NAMED} more" if len(unknown) > MOST_NAMED else ""
        hint = "; with masks, as in OGBench's files, terminals mark where a path was cut" if "masks" in unknown else ""
        notes.append(
            f"ignored, since no D4RL file has these keys: {', '.join(map(ascii, unknown[:MOST_NAMED]))}{more}{hint}"
        )
    for key, number in found.items():
        if key.partition("/")[0] == "infos" and number is not None and number != rows:
            notes.append(f"{key!a} has {number} rows where the file has {rows}: ignored")
    return notes


def time_limits(columns: Columns, env: EnvSpec, choice: str, name: str) -> list[str]:
    """Undo terminals that are time limits, where that is known (``checked``) or wanted (``timeouts``).

    D4RL sets the timeout alone at the last step, Gymnasium both flags. Fills in ``recorded_terminals`` [E]. Raises
    UserError where terminals are certainly none and ``choice`` is ``checked``.
    """
    terminals, timeouts, limit = columns["terminals"], columns["timeouts"], env.limit
    columns["recorded_terminals"] = np.flatnonzero(terminals)
    notes = []
    both = terminals & timeouts
    if both.any() and choice != "recorded":
        notes.append(_undone(columns, env, both))
    ends, lengths = episode_ends(columns), episode_lengths(columns)
    real = terminals[ends]
    full = (lengths == limit) | (lengths == limit + 1)  # one more where the last observation has a row of its own
    if real.any() and choice == "timeouts":
        chosen = real & full if env.terminates and (real & full).any() else real
        timeouts[ends[chosen]], terminals[ends[chosen]] = True, False
        notes.append(f"{int(chosen.sum())} of {int(real.sum())} terminals count as timeouts (data.terminals=timeouts)")
    elif real.any():
        what = _suspicion(env, lengths, real, full)
        certain = not env.terminates or (real.sum() > 1 and (full == real).all())
        if certain and choice == "checked":
            raise TimeLimitsAsEnds(
                f"Training on {name} would take time limits for true ends: {what}. Set data.terminals=timeouts to read "
                "them as timeouts (recorded keeps them)."
            )
        notes += [f"{what}: if they are time limits, set data.terminals=timeouts"] if what else []
    return notes + _one_row_more(lengths, limit)


def _one_row_more(lengths: NDArray[Any], limit: int) -> list[str]:
    """Episodes of ``lengths [E]`` that seem to hold their last observation as a row without a step."""
    at_limit = 0 < limit == lengths.max(initial=0) - 1
    longer = lengths[lengths == limit + 1] if at_limit else lengths[lengths % 50 == 1]
    if len(longer) < 2 or longer[0] == 1 or len(set(longer)) > 1:
        return []
    beyond = 0 < limit < longer[0]
    if not beyond and len(set(lengths)) > 1:
        return []
    return [
        f"{len(longer)} of {len(lengths)} episodes have {longer[0]} rows, as if {longer[0] - 1} steps were stored "
        "with their last observation as one more row: then the action and the reward of that row are not real"
    ]


def _suspicion(env: EnvSpec, lengths: NDArray[Any], real: NDArray[np.bool_], full: NDArray[np.bool_]) -> str:
    """What says that terminals (``real [E]``) are time limits; empty where nothing does."""
    number, constant = int(real.sum()), len(lengths) > 1 and real.all() and len(set(lengths)) == 1
    if not env.terminates:
        some = f"there are {number} terminals" if number > 1 else "there is 1 terminal"
        each = f", each after {lengths[0]} rows" if constant else ""
        return f"{some}{each}, but {env.task} never ends before its time limit"
    if (real & full).any():
        beyond = " or one row later" if lengths[real & full].max() > env.limit else ""
        return (
            f"{int((real & full).sum())} of {number} terminals come exactly at the limit of {env.limit} steps{beyond}"
        )
    return f"all {number} terminals come after exactly {lengths[0]} rows" if constant else ""


def _undone(columns: Columns, env: EnvSpec, both: NDArray[np.bool_]) -> str:
    """Take the terminals of the rows ``both [L]`` back; the sentence that says so."""
    columns["terminals"] &= ~both
    if family(env.task) == "antmaze":
        return f"{int(both.sum())} terminals at the end of a path were computed from the next path's start: ignored"
    ends = episode_ends(columns)
    lengths = episode_lengths(columns)[both[ends]]
    early = int((lengths < env.limit).sum())
    doubt = (
        f" ({early} of them before step {env.limit}; data.terminals=recorded keeps them)"
        if early and env.terminates
        else ""
    )
    return f"{int(both.sum())} rows are a terminal and a timeout: read as timeouts alone{doubt}"


def impossible_returns(columns: Columns, env: EnvSpec) -> list[str]:
    """Returns that no policy earns tell rewards on another scale. An episode over the limit counts in proportion.

    Kitchen's data count tasks otherwise than its score, which :func:`~pgd_lightning.data.d4rl.families.kitchen` says.
    """
    if family(env.task) == "kitchen" or not env.scored:
        return []
    ends = episode_ends(columns)
    total = np.concatenate([[0.0], columns["rewards"].cumsum(dtype=np.float64)])
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    limit = lengths if env.max_episode_steps is None else env.max_episode_steps
    returns = (total[ends + 1] - total[starts]) * np.minimum(1, limit / lengths)
    scores = np.array([env.score(value) for value in (returns.min(), returns.max())], dtype=np.float64)
    if scores[0] >= POSSIBLE[0] and scores[1] <= POSSIBLE[1]:
        return []
    return [
        f"returns of {returns.min():.6g} to {returns.max():.6g} are scores of {scores[0]:.6g} to {scores[1]:.6g}, "
        f"which {env.task} cannot reach: the rewards are on another scale, so scores of the data mean nothing"
    ]


def unflagged_tail(columns: Columns, env: EnvSpec) -> list[str]:
    """Files are cut at a number of rows, so the last episode may have no flag; it is kept as one that was cut."""
    ends = episode_ends(columns)
    last = int(ends[-1]) if len(ends) else -1
    left = len(columns["terminals"]) - 1 - last
    if not left:
        return []
    columns["timeouts"][-1] = True
    return [f"the last {left} rows have neither a terminal nor a timeout: kept as a truncated episode"]


def forget_foreign_successors(columns: Columns, env: EnvSpec) -> list[str]:
    """Fill in ``unknown_rows``: those whose successor is not in the file; each becomes its own successor.

    Without ``next_observations`` these are all ends. With them none, unless they were made by shifting: then the
    successor of an end is the start of the next episode. Terminals and full time limits tell, since a reset
    follows them for certain; a replay file's early timeouts may well go on in the next row.
    """
    ends = episode_ends(columns)
    if "successor_rows" not in columns:
        columns |= {"unknown_rows": ends, "successor_rows": ends, "successor_values": columns["observations"][ends]}
        return []
    columns["unknown_rows"] = ends[:0]
    lengths = episode_lengths(columns)
    full = (family(env.task) == "gym") & columns["timeouts"][ends] & (lengths == env.limit)
    reset = np.isin(ends, columns["recorded_terminals"])
    certain = ends[(reset | full) & (ends < len(columns["rewards"]) - 1)]
    shifted = ~np.isin(certain, columns["successor_rows"])
    if family(env.task) == "maze2d" or shifted.sum() * 2 <= len(certain):
        return []
    own = ~np.isin(columns["successor_rows"], ends)
    rows = np.concatenate([columns["successor_rows"][own], ends])
    values = np.concatenate([columns["successor_values"][own], columns["observations"][ends]])
    order = np.argsort(rows)
    columns |= {"unknown_rows": ends, "successor_rows": rows[order], "successor_values": values[order]}
    return [
        "next_observations were made by shifting observations, so an episode's last belongs to the next one: ignored"
    ]


def late_flags(columns: Columns) -> list[str]:
    """Say where ends seem to be flagged one row late: on the first row of the next episode.

    The row before such a flag has a successor of its own, and the flagged one is followed by its successor.
    """
    ends = episode_ends(columns)
    ends = ends[(ends > 0) & (ends < len(columns["rewards"]) - 1)]
    own = columns.get("successor_rows", ends[:0])
    late = int((np.isin(ends - 1, own) & ~np.isin(ends, own)).sum())
    if late < 2 or late * 2 <= len(ends):
        return []
    return [
        f"{late} of {len(ends)} episode boundaries seem to be flagged one row late, on the first row of the next "
        "episode, according to next_observations: move terminals and timeouts one row up"
    ]
