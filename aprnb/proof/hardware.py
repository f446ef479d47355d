"""Where tests can run: on the CPU, in the simulator, on a GPU."""
from ..kernels.cuda import unusable_reason


def unusable():
    """Hardware that cannot be used here -> why. CPU and simulator always can."""
    reason = unusable_reason(0)
    return {} if reason is None else {"gpu": reason}
