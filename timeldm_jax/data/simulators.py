"""The two simulated benchmark sets, each a pure function of its seed."""

import importlib.util
import os
import types
from pathlib import Path

import numpy as np
from jaxtyping import Float

from timeldm_jax.errors import DataError

SINES_COLUMNS = tuple(f"sine_{i}" for i in range(5))
# The state of dm_control's planar hopper: three root coordinates, four hinges, and their rates.
HOPPER_JOINTS = ("rootx", "rootz", "rooty", "waist", "hip", "knee", "ankle")
HOPPER_COLUMNS = tuple(f"{kind}_{joint}" for kind in ("pos", "vel") for joint in HOPPER_JOINTS)


def simulate_sines(count: int, window: int, seed: int) -> Float[np.ndarray, "count window 5"]:
    """Sine waves of random frequency and phase, mapped to [0, 1].

    Each window and feature draws its own frequency (radians a step) and phase (radians) from
    U(0, 0.1).

    Returns:
      `(count, window, 5)` float64: `(sin(f * t + p) + 1) / 2` at `t = 0 ... window - 1`.
    """
    generator = np.random.default_rng(seed)
    frequency, phase = generator.uniform(0.0, 0.1, size=(2, count, 1, len(SINES_COLUMNS)))
    time = np.arange(window)[:, None]
    return (np.sin(frequency * time + phase) + 1.0) / 2.0


def simulate_hopper(count: int, window: int, seed: int) -> Float[np.ndarray, "count window 14"]:
    """Passive falls of dm_control's hopper (`stand`) from random states.

    The published recipe, bit for bit, seed 123 giving the published set: `qpos[:2] ~ U(0, 0.5)`,
    `qpos[2:] ~ U(-2, 2)`, `qvel ~ U(-5, 5)`, then `window` times record the state and step. It runs
    on the MuJoCo bindings with dm_control's model file, which is several times faster than through
    dm_control's wrapper.

    Returns:
      `(count, window, 14)` float64: `qpos` (7; metres, radians) and `qvel` (7; per second), every
      0.005 s.

    Raises:
      DataError: mujoco or dm_control is not installed, or a trajectory diverged.
    """
    mujoco, model_file = _import_mujoco()
    model = mujoco.MjModel.from_xml_path(str(model_file))
    data = mujoco.MjData(model)
    joints = len(HOPPER_JOINTS)
    # One broadcast call draws in row order: the stream of the recipe's three calls a trajectory.
    low = np.repeat([0.0, -2.0, -5.0], [2, joints - 2, joints])
    high = np.repeat([0.5, 2.0, 5.0], [2, joints - 2, joints])
    initial = np.random.RandomState(seed).uniform(low, high, size=(count, 2 * joints))

    no_actuation = mujoco.mjtDisableBit.mjDSBL_ACTUATION.value
    diverged = [
        mujoco.mjtWarning.mjWARN_BADQPOS,
        mujoco.mjtWarning.mjWARN_BADQVEL,
        mujoco.mjtWarning.mjWARN_BADQACC,
    ]
    states = np.empty((count, window, 2 * joints))
    for start, trajectory in zip(initial, states, strict=True):
        # What `physics.reset_context()` does. The first `mj_forward` matters: it leaves the
        # warm start from which the solver of the second one begins.
        mujoco.mj_resetData(model, data)
        model.opt.disableflags |= no_actuation
        mujoco.mj_forward(model, data)
        data.qpos[:] = start[:joints]
        data.qvel[:] = start[joints:]
        mujoco.mj_forward(model, data)
        model.opt.disableflags &= ~no_actuation
        for state in trajectory:
            state[:joints] = data.qpos
            state[joints:] = data.qvel
            # dm_control's step: finish the step that is half done, then begin the next.
            mujoco.mj_step2(model, data)
            mujoco.mj_step1(model, data)
        if any(data.warning[kind].number for kind in diverged):
            raise DataError(
                f"a hopper trajectory of seed {seed} diverged (mujoco {mujoco.__version__}); "
                "use mujoco 3 and the seeds of timeldm_jax.data.builders"
            )
    return states


def _import_mujoco() -> tuple[types.ModuleType, Path]:
    """The mujoco module and the path of dm_control's hopper model.

    dm_control itself is not imported: only its model file is needed.

    Raises:
      DataError: one of the two packages is missing.
    """
    os.environ.setdefault("MUJOCO_GL", "disable")  # or the import looks for a display
    try:
        import mujoco
    except ImportError:
        mujoco = None
    package = importlib.util.find_spec("dm_control")
    if mujoco is None or package is None or not package.submodule_search_locations:
        missing = "mujoco" if mujoco is None else "dm_control"
        raise DataError(
            f"the data set 'mujoco' is simulated, and the package {missing} is not installed; "
            "run: pip install 'timeldm_jax[mujoco]'"
        )
    return mujoco, Path(package.submodule_search_locations[0]) / "suite" / "hopper.xml"
