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
def test_a_download_waits_for_a_kernel_that_still_runs():
    """One thread adds for about a quarter of a second before it writes."""
    import numpy as np

    from aprnb.device.gpu import GpuDevice
    from aprnb.dtypes import F32

    @cuda.jit
    def late(out, rounds):
        x = np.float32(0)
        for _ in range(rounds):
            x = x * np.float32(0.999) + np.float32(1)  # towards 1000
        out[0] = x
    device = GpuDevice(0)
    out = device.zeros(1, F32)
    late[1, 1, device.stream](out, 1)  # compiled now, not while the clock runs
    assert device.download(out)[0] == 1
    for _ in range(3):
        device.upload(out, np.full(1, -1, F32))
        late[1, 1, device.stream](out, 100_000_000)
        assert device.download(out)[0] > 900


@pytest.mark.parametrize("lane", [pytest.param("sim", marks=pytest.mark.sim),
                                  pytest.param("gpu", marks=pytest.mark.gpu)])
def test_the_share_of_a_gpu_in_use_is_not_invented(lane):
    from aprnb.device.gpu import GpuDevice
    assert GpuDevice(0).utilisation() is None


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
