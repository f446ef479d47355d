"""Every error a user can meet, with the exit code it ends the process with.

A message says where, what is wrong, got and need, and what to try. Raise the most precise class
where the cause is known, before any output is touched.
"""
import errno


class AprnbError(Exception):
    """Base of all errors that are reported as one message, without a traceback."""

    exit_code = 1


class UsageError(AprnbError):
    """The command line asks for something that cannot be meant."""

    exit_code = 2


class NotFoundError(AprnbError):
    """A file or folder that the user named does not exist."""

    exit_code = 3


class FormatError(AprnbError):
    """A file is not a valid model file; `formats` derives one class per rejection rule."""

    exit_code = 4


class CheckError(AprnbError):
    """A check, gate or contract failed, or an output exists and --force is missing."""

    exit_code = 5


class LoadError(AprnbError):
    """A model does not fit an architecture: configuration, tensor names, shapes, tokenizer."""

    exit_code = 6


class StorageError(AprnbError):
    """The disk is full, or a path cannot be read or written."""

    exit_code = 7


class NonFiniteError(AprnbError):
    """A loss, gradient or weight became NaN or infinite."""

    exit_code = 8


class MissingPackageError(AprnbError):
    """An optional package is not installed; the message names the extra that brings it."""

    exit_code = 9


class DeviceMemoryError(AprnbError):
    """A buffer does not fit into device memory; the message names it and the flag that helps."""

    exit_code = 12


def out_of_memory(error):
    """The DeviceMemoryError that a failure for lack of host memory ends as; None of any other.

    Python, NumPy: MemoryError.  The system: an OSError of ENOMEM.
    """
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        error = error.strerror
    elif not isinstance(error, MemoryError):
        return None
    return DeviceMemoryError(f"out of host memory: {str(error).rstrip('.') or 'no size is known'}; "
                             "try a smaller model, batch or sequence length, or end other programs")


class DeviceError(AprnbError):
    """A GPU was asked for and none is usable."""

    exit_code = 14


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or another signal of interrupt.py; what could be saved was saved first.

    No Exception: code that turns every failure of a library into one of ours must not hide it.
    """

    exit_code = 130


class ShapeError(AprnbError):
    """Arrays given to an op do not fit together: a fault of the caller, not of the user."""
