"""What changed in MuJoCo since D4RL was recorded, undone where a model's options can undo it.

Before version 2.1.2 MuJoCo weighed a capsule of radius r and half-length h as a solid cylinder of radius r and
half-length h + r / 2 in the same pose (MuJoCo's changelog; measured on recordings of that time: the one-step error
falls from 5e-3 and more to float rounding). Hopper, HalfCheetah, Walker2d and Ant are made of capsules. What they
collide with stays a capsule.

From 3.5 on the margin of a contact is the sum of both geoms' margins instead of the larger one, and later versions make
several contacts of one pair of convex geoms. :func:`restore_contacts` halves the margins and allows one contact a pair.
"""

from typing import Any

import mujoco
import numpy as np

from pgd_lightning.errors import UserError

KNOWN = ((3, 3), (4, 1))  # versions of MuJoCo: from the first on, before the second
SUMMED_MARGINS = (3, 5)
INERTIAL = ("body_mass", "body_inertia", "body_ipos", "body_iquat", "body_sameframe", "body_simple", "dof_simplenum")
# What stays different from 3.4, and since when: docs/simulators.md has the errors of one step.
FREE_JOINTS = ((4, 0), "integrates free joints otherwise (RK4)")
CONVEX = ((3, 16), "finds other contacts between convex geoms")
CHANGED = {"ant": FREE_JOINTS, "antmaze": FREE_JOINTS, "pen": CONVEX, "door": CONVEX, "hammer": CONVEX}


def release(version: str) -> tuple[int, int]:
    """Major and minor number."""
    major, minor, *_ = version.split(".")
    return int(major), int(minor)


def require_known_contacts(version: str) -> None:
    """Raises UserError for a MuJoCo ``version`` whose steps were never compared with recorded ones.

    Before 3.3 these models cannot be built.
    """
    low, high = KNOWN
    if not low <= release(version) < high:
        wanted = f"mujoco>={low[0]}.{low[1]},<{high[0]}.{high[1]}"
        raise UserError(
            f"MuJoCo {version} is installed, whose steps were not compared with D4RL's recordings: pip install "
            f"'{wanted}'."
        )


def restore_contacts(model: Any, version: str) -> None:
    """Give ``model`` the contacts of MuJoCo 3.4, as far as a newer ``version`` can have them."""
    if release(version) < SUMMED_MARGINS:
        return
    model.geom_margin[:] /= 2
    model.opt.disableflags |= getattr(mujoco.mjtDisableBit, "mjDSBL_MULTICCD", 0)


def changed(task: str, version: str) -> str | None:
    """How ``version`` steps ``task`` otherwise than MuJoCo 3.4; None where it does not."""
    since, what = CHANGED.get(task.partition("-")[0], (None, ""))
    if since is None or release(version) < since:
        return None
    return f"MuJoCo {version} {what}, so scores are of its own physics; mujoco<{since[0]}.{since[1]} steps as 3.4"


def use_old_capsules(model: Any, spec: Any) -> None:
    """Give ``model``, compiled from ``spec`` (mujoco.MjSpec, changed here), the inertia of old and what follows."""
    for geom in spec.geoms:
        if geom.type == mujoco.mjtGeom.mjGEOM_CAPSULE:
            geom.type = mujoco.mjtGeom.mjGEOM_CYLINDER
            radius = geom.size[0]
            if np.isfinite(geom.fromto).all():
                start, end = np.split(np.array(geom.fromto), 2)
                longer = radius / 2 * (end - start) / np.linalg.norm(end - start)
                geom.fromto = np.concatenate([start - longer, end + longer])
            else:
                geom.size = [radius, geom.size[1] + radius / 2, 0]
    old = spec.compile()
    for name in INERTIAL:
        getattr(model, name)[:] = getattr(old, name)
    mujoco.mj_setConst(model, mujoco.MjData(model))
