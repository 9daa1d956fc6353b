"""The mass and inertia of capsules in the simulator that D4RL was recorded in.

Before version 2.1.2 MuJoCo weighed a capsule of radius r and half-length h as a solid cylinder of radius r and
half-length h + r / 2 in the same pose (MuJoCo's changelog; measured on recordings of that time: the one-step error
falls from 5e-3 and more to float rounding). Hopper, HalfCheetah, Walker2d and Ant are made of capsules. What they
collide with stays a capsule.
"""

from typing import Any

import mujoco
import numpy as np

from pgd_lightning.errors import UserError

KNOWN = ((3, 3), (3, 5))  # versions of MuJoCo: from the first on, before the second
INERTIAL = ("body_mass", "body_inertia", "body_ipos", "body_iquat", "body_sameframe", "body_simple", "dof_simplenum")


def require_known_contacts(version: str) -> None:
    """Raises UserError if contacts of this MuJoCo ``version`` are not those of D4RL's recordings.

    From 3.5 on the margin of a contact is the sum of both geoms' margins instead of the larger one: one step of a
    recorded Hopper is then wrong by up to 0.5. Before 3.3 these models cannot be built.
    """
    low, high = KNOWN
    if not low <= tuple(int(part) for part in version.split(".")[:2]) < high:
        wanted = f"mujoco>={low[0]}.{low[1]},<{high[0]}.{high[1]}"
        raise UserError(
            f"MuJoCo {version} is installed, in which these simulators do not reproduce D4RL's recordings (contact "
            f"margins changed in 3.5): pip install '{wanted}'."
        )


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
