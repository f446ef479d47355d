"""Every op of the oracle has a kernel of the same name and arguments, plus a last `stream`."""
import importlib
import inspect
import pkgutil

import aprnb.kernels
import aprnb.kernels.sm80
import aprnb.kernels.sm90
import aprnb.oracle
from aprnb.backend import OPS
from aprnb.kernels.choice import ORDER, ROOMS

NOT_OPS = {"oracle": {"parallel", "wide"},
           "kernels": {"attention_tiles", "block", "build", "build_worker", "cache", "cast",
                       "choice", "composed", "cubin", "workers",
                       "cuda", "launch", "matmul", "memory", "ptx", "shapes", "sm80", "sm90",
                       "tensor_maps", "workspace"}}


def ops(package):
    """(module, op) -> parameter names of every public function defined in the package's ops."""
    room, found = package.__name__.split(".")[-1], {}
    for info in pkgutil.iter_modules(package.__path__):
        if info.name in NOT_OPS[room]:
            continue
        module = importlib.import_module(f"{package.__name__}.{info.name}")
        for name, function in vars(module).items():
            if (inspect.isfunction(function) and function.__module__ == module.__name__
                    and not name.startswith("_") and name != "misfit"):
                found[info.name, name] = list(inspect.signature(function).parameters)
    return found


def test_every_op_has_its_twin():
    assert {op: [*names, "stream"] for op, names in ops(aprnb.oracle).items()} == \
        ops(aprnb.kernels)


def test_the_backend_binds_every_op():
    assert {(module, op) for module, names in OPS.items() for op in names} == \
        set(ops(aprnb.oracle))


def test_the_table_of_rooms_has_every_op_where_it_stands():
    """An op that the table lacks is found missing on a GPU alone."""
    homes = {room: {info.name for info in pkgutil.iter_modules(package.__path__)}
             for room, package in (("portable", aprnb.kernels), ("sm80", aprnb.kernels.sm80),
                                   ("sm90", aprnb.kernels.sm90))}
    assert ROOMS == {module: tuple(room for room in ORDER if module in homes[room])
                     for module in OPS}
