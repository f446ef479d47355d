"""A device that is always behind: ops and copies run only when somebody waits for them.

A GPU takes work into a stream and computes later; the host that reads a result without waiting
finds what stood there before, most of the time unnoticed because the kernel was quick. Here it is
never quick: nothing has happened until a download or a synchronise, so reading early always shows.
"""
from functools import partial
from types import SimpleNamespace

import numpy as np

from aprnb.backend import Backend, open_backend
from aprnb.device.host import HostDevice


class LateDevice(HostDevice):
    """NumPy arrays, and the work that stands in line for them."""

    name = "late"

    def __init__(self):
        super().__init__()
        self.waiting = []

    def enqueue(self, work, *arguments):
        self.waiting.append(partial(work, *arguments))

    def upload(self, target, host):
        # the driver takes a copy of the host's values before it returns
        self.enqueue(super().upload, target, np.array(host))

    def copy(self, target, source):
        self.enqueue(super().copy, target, source)

    def download(self, source):
        self.synchronize()
        return super().download(source)

    def synchronize(self):
        waiting, self.waiting = self.waiting, []
        for work in waiting:
            work()


def late_backend():
    """The oracle in float32 on a LateDevice."""
    device, prompt = LateDevice(), open_backend("cpu", "fp32")
    ops = {name: partial(device.enqueue, op) for name, op in vars(prompt.ops).items()}
    return Backend(device, SimpleNamespace(**ops), "fp32", "late")
