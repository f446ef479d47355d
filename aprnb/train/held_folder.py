"""A folder that one process at a time holds, and that is followed where it is renamed to.

It is held by a file descriptor, with a lock of the kernel that ends with the process. A descriptor
stays with its folder whatever that is called, so `path` is always where the folder is now, and
nothing is ever written at a place that it has left.
"""
import fcntl
import os
from contextlib import suppress
from pathlib import Path

from ..errors import CheckError, StorageError


class HeldFolder:
    """A folder by its path; as a context it is held for this process alone."""

    def __init__(self, path):
        self._path, self._left = Path(path), []
        self._held = None
        self.warnings = []
        self.tell = self.warnings.append
        """What is said of a folder that was renamed, or of a part of it that went away."""

    def __enter__(self):
        if self._path.is_dir():
            self._hold()
        return self

    def __exit__(self, *_):
        if self._held is not None:
            os.close(self._held)
            self._held = None

    def _hold(self):
        """Lock the folder itself. Errors: CheckError if another process holds it."""
        self._held = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._held)
            self._held = None
            raise CheckError(f"{self._path}: another pretrain is writing this run; wait for it, or "
                             "choose another --run-dir") from None
        except OSError as error:  # some network file systems lock no folders
            self.warnings.append(f"{self._path} cannot be locked ({error.strerror}): start no "
                                 "second run in it")

    # ------------------------------------------------------------ where it is

    @property
    def path(self):
        """Where the folder is now. Errors: StorageError if it was removed while it was held."""
        if self._held is not None and not self._is_held(self._path):
            self._follow()
        return self._path

    def here(self, path):
        """A path inside the folder by any name that it had, under its present one."""
        now = self.path  # follows first, so that every name it had is known
        for old in self._left:
            if isinstance(path, Path) and path.is_relative_to(old):
                return now / path.relative_to(old)
        return path

    def _is_held(self, path):
        with suppress(OSError):
            return os.path.samestat(os.stat(path), os.fstat(self._held))
        return False

    def _follow(self):
        new = None
        with suppress(OSError):  # no /proc: nobody knows where it went
            new = Path(os.readlink(f"/proc/self/fd/{self._held}"))
        if new is None or not self._is_held(new):
            raise StorageError(
                f"{self._path}: the run folder was removed, or moved out of reach, while the run "
                "wrote it. Its states, checkpoints and records went with it and the steps since "
                "the newest state are lost; if you have a copy, --resume goes on from that, else "
                "start again")
        old, self._path = self._path, new
        self._left.append(old)
        self.tell(f"the run folder {old} is now {new}: the run goes on there")
