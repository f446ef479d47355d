"""The kernels of one room by name, for a bench that measures it whatever training would choose."""
import importlib

from ..errors import DeviceError

ROOMS = {"sm_90": "sm90.", "sm_80": "sm80.", "portable": ""}


def room(name, module, capability):
    """(room, module of kernels).  Errors: DeviceError if this GPU cannot run what was asked for.

    name: a key of ROOMS, or "auto" for the first that this GPU runs
    """
    able = [n for n in ROOMS if runs_on(n, capability)]
    chosen = able[0] if name == "auto" else name
    if chosen not in able:
        raise DeviceError(f"--kernels {name}: this GPU has compute capability "
                          f"{'.'.join(map(str, capability))}; use {' or '.join(able)}")
    return chosen, importlib.import_module(f"..kernels.{ROOMS[chosen]}{module}", __package__)


def runs_on(name, capability):
    """sm_90 kernels use instructions of exactly 9.0, sm_80 kernels of 8.0 and newer."""
    return {"sm_90": capability == (9, 0), "sm_80": capability >= (8, 0), "portable": True}[name]
