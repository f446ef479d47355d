"""A workshop with servers of tests, so that a trial does not pay for imports."""
import contextlib

from ..observe import environment, run_tests
from ..server import PytestServer
from .planting import Workshop

SERVED = ("cpu", "simulator")  # of a trial on a GPU nearly all is the compiler's time


class Bench(Workshop):
    """Context manager of a copy of the checkout, with a server for each kind of hardware used."""

    def __enter__(self):
        self._stack, self._servers, self._used = contextlib.ExitStack(), {}, set()
        return super().__enter__()

    def __exit__(self, *exception):
        self._stack.close()
        super().__exit__(*exception)

    def run_tests(self, nodes, hardware, timeout, until_red=False):
        """Observations of tests in the copy as it stands; arguments of observe.run_tests."""
        again = hardware in self._used  # the second trial is the first that a server is cheaper for
        self._used.add(hardware)
        if again and hardware in SERVED and hardware not in self._servers:
            self._servers[hardware] = self._stack.enter_context(
                PytestServer(self.root, environment(self.root, hardware)))
        return run_tests(self.root, nodes, hardware, timeout, server=self._servers.get(hardware),
                         until_red=until_red)
