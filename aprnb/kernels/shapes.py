"""Checks of a launcher's arguments before anything runs on the device."""
from ..errors import ShapeError


def expect(op, **arrays):
    """Every keyword is name=(array, shape it must have).

    Errors: ShapeError naming the first array that differs.
    """
    for name, (array, need) in arrays.items():
        if array.shape != need:
            raise ShapeError(f"{op}: {name} has shape {tuple(array.shape)}, need {need} to fit "
                             "the other arguments")


def ceil_div(n, step):
    """Number of steps that cover n."""
    return -(-n // step)
