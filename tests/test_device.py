"""The GPU as a device: which are served, and what a refusal of the driver becomes."""
import pytest

from aprnb.errors import DeviceError, DeviceMemoryError
from aprnb.kernels.cuda import SIMULATOR, cuda

not_simulated = pytest.mark.skipif(SIMULATOR, reason="this process simulates CUDA")


@pytest.mark.parametrize("capability, architecture", [
    ((8, 0), "sm_80"), ((8, 6), "sm_80"), ((8, 9), "sm_80"), ((9, 0), "sm_90a"),
    ((10, 0), "sm_100"), ((10, 3), "sm_103"), ((12, 0), "sm_120")])
def test_every_gpu_has_an_architecture(capability, architecture):
    from aprnb.kernels.launch import architecture_of
    assert architecture_of(capability) == architecture


def test_a_gpu_that_is_too_old_is_refused():
    from aprnb.kernels.launch import architecture_of
    with pytest.raises(DeviceError, match="compute capability 7.5: 8.0 or newer"):
        architecture_of((7, 5))


@not_simulated
def test_what_the_driver_says_ends_with_the_right_exit_code():
    from cuda.bindings.driver import CUresult

    from aprnb.kernels.launch import checked
    assert checked((CUresult.CUDA_SUCCESS, 7), "graph") == 7
    assert checked((CUresult.CUDA_SUCCESS,), "graph") is None
    with pytest.raises(DeviceMemoryError, match="graph: the CUDA driver says .*OUT_OF_MEMORY"):
        checked((CUresult.CUDA_ERROR_OUT_OF_MEMORY,), "graph")
    with pytest.raises(DeviceError, match="CUDA_ERROR_INVALID_VALUE"):
        checked((CUresult.CUDA_ERROR_INVALID_VALUE, None), "graph")


@pytest.mark.sim
def test_a_process_works_on_one_gpu():
    """Loaded kernels, tensor maps and scratch memory are kept for the process, not for a GPU."""
    from aprnb.device.gpu import GpuDevice
    GpuDevice(0)
    GpuDevice(0)
    with pytest.raises(DeviceError, match="cuda:1: this process works on cuda:0 already"):
        GpuDevice(1)


@pytest.mark.gpu
def test_scratch_memory_that_does_not_fit_is_named_and_counted():
    from aprnb.device.gpu import GpuDevice
    from aprnb.kernels.workspace import workspace
    device = GpuDevice(0)
    before = device.memory_peak()
    with pytest.raises(DeviceMemoryError, match="GiB more do not fit"):
        workspace("more than there is", 1 << 42, device.stream)
    assert device.memory_peak() == before
    workspace("a little", 1 << 20, device.stream)
    assert device.memory_peak() == before + (1 << 20)
    cuda.synchronize()
