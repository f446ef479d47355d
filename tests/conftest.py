"""Which lane a test belongs to, and why it is skipped where its lane cannot run.

    oracle (no mark)   NumPy alone
    sim                kernels in the CUDA simulator: the whole process simulates, so this lane has
                       one of its own, NUMBA_ENABLE_CUDASIM=1 python -m pytest tests -m sim
    ptx                kernels to machine code; a missing compiler is a failure, not a skip
    gpu                kernels on a CUDA device
"""
import os

import processes
import pytest

SIMULATING = os.environ.get("NUMBA_ENABLE_CUDASIM", "0") == "1"


def pytest_configure(config):
    processes.own_signals()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    with processes.time_limit(processes.TEST_LIMIT, item.nodeid):
        return (yield)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Of the tests that are left: only these ask for a GPU, which costs half a second."""
    reason = None
    for item in items:
        marks = {mark.name for mark in item.iter_markers()}
        if "sim" in marks and not SIMULATING:
            item.add_marker(pytest.mark.skip(reason="the simulator has a process of its own: "
                                                    "NUMBA_ENABLE_CUDASIM=1 pytest -m sim"))
        if marks & {"gpu", "ptx"} and SIMULATING:
            item.add_marker(pytest.mark.skip(reason="this process simulates CUDA"))
        elif "gpu" in marks:
            reason = reason or gpu_reason()
            if reason != "usable":
                item.add_marker(pytest.mark.skip(reason=reason))


def gpu_reason():
    """Why GPU tests cannot run here, or "usable"."""
    from aprnb.kernels.cuda import unusable_reason
    return unusable_reason(0) or "usable"
