"""Where tests can run: on the CPU, in the simulator, on a GPU."""

from ..errors import DeviceError

SIDES = ("cpu", "simulator", "gpu")
UNASKED = "not asked for (--hardware)"  # why nothing is run on hardware that was left out


def unusable():
    """Hardware that cannot be used here -> why. CPU and simulator always can."""
    from ..kernels.cuda import unusable_reason  # half a second of imports, for those who run tests
    reason = unusable_reason(0)
    return {} if reason is None else {"gpu": reason}


def idle(sides, verb):
    """Hardware -> why nothing is run on it, of those that cannot be used or are not in `sides`.

    sides: hardware that was asked for; none: all that is usable here
    Errors: DeviceError if some of it cannot be used.
    """
    found = unusable()
    for side in sides or ():
        if side in found:
            raise DeviceError(f"{verb}: --hardware {side}: {found[side]}")
    return found | {side: UNASKED for side in SIDES if sides and side not in sides}
