"""Which implementation of an op runs: one table, read from left to right.

    sm90       TMA, wgmma: compute capability 9.0, bfloat16
    sm80       16-byte accesses, mma.sync: compute capability 8.0 and newer, bfloat16
    portable   everything else, float32 included

The first room that the GPU can run and whose `misfit` finds nothing wrong with the arguments
serves the call; a file without one serves every shape. What was asked for by name must serve: where
it cannot, that is an error. What no room serves is refused when a run starts: model/rehearsal.py
asks `check` about every op of a pass before there are arrays.
"""
from importlib import import_module

from ..errors import DeviceError, LoadError
from .shapes import misfit_of_size

ROOMS = {  # op module -> rooms that have it, best first
    "adamw": ("sm80", "portable"),
    "attention": ("sm90", "portable"),
    "convert": ("sm80", "portable"),
    "embedding": ("sm80", "portable"),
    "linear": ("sm90", "sm80", "portable"),
    "linear_cross_entropy": ("sm90", "sm80", "portable"),
    "linear_swiglu": ("sm90", "sm80", "portable"),
    "reduce": ("sm80", "portable"),
    "rmsnorm": ("sm80", "portable"),
    "rope": ("sm80", "portable"),
    "swiglu": ("sm80", "portable"),
}
NAMES = {"auto": "sm90", "sm_90": "sm90", "sm_80": "sm80", "portable": "portable"}
ORDER = ("sm90", "sm80", "portable")


class Choice:
    """The table for one GPU, precision and wish; binds ops and remembers what served."""

    def __init__(self, asked, capability, precision):
        """asked: a key of NAMES.  Errors: DeviceError if GPU or precision cannot serve it."""
        self.asked, self.forced = asked, NAMES[asked] if asked != "auto" else None
        self.unfit = {room: _unfit(room, capability, precision) for room in ORDER}
        if self.forced and self.unfit[self.forced]:
            raise DeviceError(f"--kernels {asked}: {self.unfit[self.forced]}; use --kernels auto")
        first = ORDER.index(NAMES[asked])
        self.rooms = [r for r in ORDER[first:] if not self.unfit[r]]
        self.served = {}
        """op -> {room: why the rooms before it did not serve}"""

    def bind(self, module, name):
        """A function that takes the op's arguments with the stream and runs the best room's op."""
        find, served = self._finder(module, name), self.served.setdefault(name, {})

        def op(*arguments):
            room, home, why = find(*arguments[:-1])
            served[room] = why
            return getattr(home, name)(*arguments)
        return op

    def check(self, module, name):
        """A function that takes the op's arguments, or anything with their shape, dtype, strides
        and address, and runs nothing.

        Its errors: LoadError if no room serves them; DeviceError if the room that was asked for by
        name does not.
        """
        find = self._finder(module, name)

        def checked(*arguments):
            misfit = misfit_of_size(*arguments)
            if misfit:
                raise LoadError(f"{name}: {misfit}")
            find(*arguments)
        return checked

    def _finder(self, module, name):
        """A function that takes the op's arguments and gives (room, its module, why not those
        before it)."""
        homes = [(room, import_module(_home(room, module))) for room in ROOMS[module]
                 if room in self.rooms]
        must = self.forced if self.forced in ROOMS[module] else None

        def find(*arguments):
            why = ""
            for room, home in homes:
                misfit = home.misfit(*arguments) if hasattr(home, "misfit") else None
                if misfit is None:
                    return room, home, why
                why = misfit
                if room == must and room != homes[-1][0]:
                    raise DeviceError(f"--kernels {self.asked}: {name}: {misfit}; use --kernels "
                                      "auto")
            raise LoadError(f"{name}: {why}")
        return find

    def lines(self):
        """What has served so far, a line per room by its name: "sm_90: linear_forward, ..."."""
        rows = {}
        for name, rooms in self.served.items():
            for room, why in rooms.items():
                rows.setdefault(room, []).append(f"{name} ({why})" if why else name)
        return [f"{name_of(room)}: {', '.join(sorted(rows[room]))}" for room in ORDER
                if room in rows]


def name_of(room):
    """What --kernels calls a room."""
    return next(name for name, r in NAMES.items() if r == room and name != "auto")


def _unfit(room, capability, precision):
    """Why a GPU of this capability cannot run a room's kernels, or None."""
    need = {"sm90": "9.0", "sm80": "8.0 or newer", "portable": ""}[room]
    version = ".".join(map(str, capability))
    if room == "sm90" and capability != (9, 0) or room == "sm80" and capability < (8, 0):
        return f"compute capability {version}, need {need}"
    if room == "sm90" and precision != "bf16":
        return f"precision {precision}, need bf16"
    return None


def _home(room, module):
    return ".".join(p for p in ("aprnb.kernels", "" if room == "portable" else room, module) if p)
