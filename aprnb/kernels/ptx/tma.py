"""Bulk copies by the copy engine, described by a tensor map (see kernels/tensor_maps.py).

Coordinates come innermost first. What lies outside the tensor is read as zero and never written.
"""
from .emit import i32, none, ptx, u32, u64

_LOAD = "cp.async.bulk.tensor.{}.shared::cluster.global.mbarrier::complete_tx::bytes"
_STORE = "cp.async.bulk.tensor.{}.global.shared::cta.bulk_group"

prefetch_map = ptx("prefetch.tensormap [$0];", none, u64)
# target in shared memory, map, coordinates, mbarrier that receives the bytes
load_2d = ptx(_LOAD.format("2d") + " [$0], [$1, {$2, $3}], [$4];", none, u32, u64, i32, i32, u32)
load_3d = ptx(_LOAD.format("3d") + " [$0], [$1, {$2, $3, $4}], [$5];",
              none, u32, u64, i32, i32, i32, u32)
# the same to every block of the cluster whose bit is set in the last argument
load_2d_multicast = ptx(
    "{ .reg .b16 m; cvt.u16.u32 m, $5; " + _LOAD.format("2d")
    + ".multicast::cluster [$0], [$1, {$2, $3}], [$4], m; }", none, u32, u64, i32, i32, u32, u32)
# map, source in shared memory, coordinates
store_2d = ptx(_STORE.format("2d") + " [$0, {$2, $3}], [$1];", none, u64, u32, i32, i32)
store_3d = ptx(_STORE.format("3d") + " [$0, {$2, $3, $4}], [$1];", none, u64, u32, i32, i32, i32)
# a plain run of bytes, a multiple of 16: target, source, bytes, mbarrier
load_bytes = ptx("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[$0], [$1], $2, [$3];", none, u32, u64, u32, u32)
commit_stores = ptx("cp.async.bulk.commit_group;", none)


def wait_stores_read(groups):
    """Waits until all but `groups` of this thread's committed stores have read shared memory."""
    return ptx(f"cp.async.bulk.wait_group.read {groups};", none)
