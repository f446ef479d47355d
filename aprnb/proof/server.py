"""A server of test processes: the other end of forkserver.py."""
import json
import select
import subprocess
import sys
from pathlib import Path

from ..errors import CheckError
from .processes import led_by, session

SCRIPT = Path(__file__).with_name("forkserver.py")


class PytestServer:
    """Context manager. One pytest at a time, in `root` and with `environment`."""

    def __init__(self, root, environment):
        self._session = session([sys.executable, SCRIPT], cwd=root, env=environment, bufsize=0,
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __enter__(self):
        self._server = self._session.__enter__()
        return self

    def __exit__(self, *exception):
        self._session.__exit__(*exception)

    def pytest(self, arguments, environment, output, timeout):
        """Exit code of one pytest, or None if it was ended after `timeout` seconds.

        environment: variables for it alone;  output: path of the file that gets what it prints.
        """
        request = {"arguments": arguments, "environment": environment, "output": str(output)}
        self._server.stdin.write(json.dumps(request).encode() + b"\n")
        with led_by(self._number()):
            done = select.select([self._server.stdout], [], [], timeout)[0]
        code = self._number()
        return code if done else None

    def _number(self):
        line = self._server.stdout.readline()
        if not line:
            raise CheckError(f"{SCRIPT.name} ended by itself, with {self._server.wait()}")
        return int(line)
