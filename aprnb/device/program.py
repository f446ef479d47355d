"""A fixed sequence of kernels that is enqueued again and again: run once, then captured.

The first call runs the sequence kernel by kernel, which loads each of them; the second captures it
as a CUDA graph, and from then on a call is one launch. A graph freezes every scalar argument and
address: what changes between calls stands in device arrays.
"""
from functools import partial

from ..kernels.launch import checked, recording

_checked = partial(checked, what="CUDA graph")


class Program:
    """One body of ops on one stream."""

    def __init__(self, body, stream):
        self.body, self.stream, self.graph, self.ran = body, stream, None, False

    def kernels(self):
        """{(name, signature)} of what the sequence launches; launches nothing."""
        with recording() as wanted:
            self.body()
        return wanted

    def __call__(self):
        if not self.ran:
            self.body()
            self.ran = True
            return
        if self.graph is None:
            self.graph = self._capture()
        _checked(_driver().cuGraphLaunch(self.graph, int(self.stream)))

    def _capture(self):
        driver, stream = _driver(), int(self.stream)
        _checked(driver.cuStreamBeginCapture(
            stream, driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED))
        try:
            self.body()
        except BaseException:
            driver.cuStreamEndCapture(stream)  # its own complaint would hide the reason
            raise
        graph = _checked(driver.cuStreamEndCapture(stream))
        executable = _checked(driver.cuGraphInstantiate(graph, 0))
        _checked(driver.cuGraphDestroy(graph))
        return executable


def _driver():
    from cuda.bindings import driver
    return driver
