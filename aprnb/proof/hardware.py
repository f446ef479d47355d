"""Where tests can run: on the CPU, in the simulator, on a GPU."""

SIDES = ("cpu", "simulator", "gpu")


def unusable():
    """Hardware that cannot be used here -> why. CPU and simulator always can."""
    from ..kernels.cuda import unusable_reason  # half a second of imports, for those who run tests
    reason = unusable_reason(0)
    return {} if reason is None else {"gpu": reason}
