"""Where tests can run: on the CPU, in the simulator, on a GPU."""

from ..errors import DeviceError

SIDES = ("cpu", "simulator", "gpu")
UNASKED = "not asked for (--hardware)"  # why nothing is run on hardware that was left out


def unusable(sides=SIDES):
    """Of the hardware in `sides` what cannot be used here -> why. CPU and simulator always can."""
    if "gpu" not in sides:
        return {}
    from ..kernels.cuda import unusable_reason  # half a second of imports, for those who need it
    reason = unusable_reason(0)
    return {} if reason is None else {"gpu": reason}


def idle(verb, sides, used):
    """Hardware -> why nothing is run on it, of those that cannot be used or are not in `sides`.

    sides: hardware that was asked for; none: all that is usable here
    used: hardware that the tests at hand are bound to
    Errors: DeviceError if some that was asked for cannot be used.
    """
    found = unusable({*(sides or ()), *used})
    for side in sides or ():
        if side in found:
            raise DeviceError(f"{verb}: --hardware {side}: {found[side]}")
    return found | {side: UNASKED for side in SIDES if sides and side not in sides}
