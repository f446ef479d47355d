"""Peak memory of this program alone; ru_maxrss also counts what its parent held at the fork."""
from pathlib import Path


def peak_mib():
    """Largest resident size since the program began, MiB (Linux)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) >> 10
