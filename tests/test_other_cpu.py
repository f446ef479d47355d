"""tools/test_other_cpu.py computes as another CPU does, or says why it cannot."""
import platform
import sys
from pathlib import Path

import numpy as np
import processes
import pytest
from threadpoolctl import threadpool_info

TOOL = Path(__file__).parents[1] / "tools/test_other_cpu.py"


def other_cpu(*arguments):
    return processes.run([sys.executable, TOOL, *arguments])


def blas_of_a_wheel():
    """OpenBLAS as NumPy's wheels bring it: with the kernels of every x86 CPU."""
    assert np.__version__  # imported, so that its BLAS is among the libraries
    return platform.machine() in ("x86_64", "AMD64") and any(
        library["internal_api"] == "openblas" and "numpy.libs" in library["filepath"]
        for library in threadpool_info())


def test_it_takes_another_core_type_or_says_that_there_is_none():
    result = other_cpu("--dry-run")
    assert result.returncode == 0, result.stderr
    assert ("instead of" in result.stdout) == blas_of_a_wheel(), result.stdout
    assert ("not applicable" in result.stdout) != blas_of_a_wheel()


@pytest.mark.skipif(not blas_of_a_wheel(), reason="this BLAS has the kernels of one CPU")
def test_a_core_type_that_is_not_taken_is_an_error():
    result = other_cpu("--core", "nonsense")
    assert result.returncode == 1 and "passed" not in result.stdout
    assert "--core nonsense: BLAS took" in result.stderr


@pytest.mark.skipif(not blas_of_a_wheel(), reason="this BLAS has the kernels of one CPU")
def test_the_tests_run_in_what_was_taken():
    """Prescott has kernels of its own wherever the other tests run."""
    result = other_cpu("--core", "Prescott", "tests/test_rope.py", "-k", "test_golden_vector_of")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "instead of" in result.stdout and "1 passed" in result.stdout
