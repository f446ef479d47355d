"""Barriers between threads, between threads and the copy engine, and between blocks of a cluster.

An mbarrier counts arrivals (and bytes still to come); its phase flips when both are complete.
`wait(bar, parity)` returns once the phase of that parity has completed: a fresh barrier has phase
0 open, so that a producer waits for parity 1 first and passes.
"""
from ..cuda import target_capability
from .emit import VOID, intrinsic, none, ptx, signature, statement, u32

mbarrier_init = ptx("mbarrier.init.shared::cta.b64 [$0], $1;", none, u32, u32)
mbarrier_fence_init = ptx("fence.mbarrier_init.release.cluster;", none)  # seen by the copy engine
mbarrier_expect = ptx("mbarrier.arrive.expect_tx.shared::cta.b64 _, [$0], $1;", none, u32, u32)
mbarrier_arrive = ptx("mbarrier.arrive.shared::cta.b64 _, [$0];", none, u32)
# On the barrier at the same offset in block `b` of the cluster. Without qualifiers on purpose:
# .release.cluster compiles to a fence of all memory, and nothing is published here.
mbarrier_arrive_remote = ptx(
    "{ .reg .b32 ra; mapa.shared::cluster.u32 ra, $0, $1; "
    "mbarrier.arrive.shared::cluster.b64 _, [ra]; }", none, u32, u32)
mbarrier_wait = ptx(
    "{ .reg .pred P1; LAB_WAIT_${:uid}: mbarrier.try_wait.parity.shared::cta.b64 P1, [$0], $1; "
    "@P1 bra DONE_${:uid}; bra LAB_WAIT_${:uid}; DONE_${:uid}: }", none, u32, u32)

named_sync = ptx("bar.sync $0, $1;", none, u32, u32)  # barrier number, threads
named_arrive = ptx("bar.arrive $0, $1;", none, u32, u32)

cluster_sync = ptx("barrier.cluster.arrive.release; barrier.cluster.wait.acquire;", none)
cluster_rank = ptx("mov.u32 $0, %cluster_ctarank;", u32, effect=False, memory=False)

# between ordinary stores to shared memory and the copy engine or the tensor cores reading them
fence_async_shared = ptx("fence.proxy.async.shared::cta;", none)

# Overlap of one kernel's end with the next one's start (a kernel launched with `overlap`): the
# next grid may be placed as soon as all blocks of this one have said so or ended; it must wait
# before it touches memory, until every grid before it has ended and its writes are seen.
let_next_start = ptx("griddepcontrol.launch_dependents;", none)
wait_for_previous = ptx("griddepcontrol.wait;", none)


@intrinsic
def overlap_previous(typingctx):
    """Both, as the first statement of a kernel; nothing before compute capability 9.0."""
    def generate(context, builder, sig, args):
        if target_capability() >= (9, 0):
            statement(builder, VOID, [],
                      "griddepcontrol.launch_dependents; griddepcontrol.wait;", "~{memory}")
        return context.get_dummy_value()
    return signature(none), generate


def setmaxnreg(direction, registers):
    """"dec" gives registers of a warpgroup back, "inc" takes them; all of its warps must run it."""
    return ptx(f"setmaxnreg.{direction}.sync.aligned.u32 {registers};", none)
