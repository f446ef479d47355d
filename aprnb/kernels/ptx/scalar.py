"""Arithmetic, loads, stores and exchanges of single values. Addresses are u64 (global) or u32
(shared window); the .approx functions are exact to about 2 units in the last place."""
from .emit import I32, I64, f32, i32, intrinsic, none, ptx, signature, statement, u32, u64

ex2 = ptx("ex2.approx.ftz.f32 $0, $1;", f32, f32, effect=False, memory=False)  # 2 ** a
lg2 = ptx("lg2.approx.ftz.f32 $0, $1;", f32, f32, effect=False, memory=False)  # log2 a
rcp = ptx("rcp.approx.ftz.f32 $0, $1;", f32, f32, effect=False, memory=False)  # 1 / a
sqrt = ptx("sqrt.approx.ftz.f32 $0, $1;", f32, f32, effect=False, memory=False)
maximum = ptx("max.f32 $0, $1, $2;", f32, f32, f32, effect=False, memory=False)  # NaN loses
fma = ptx("fma.rn.f32 $0, $1, $2, $3;", f32, f32, f32, f32, effect=False, memory=False)
# of non-negative numbers; the compiler's // tests for zero and may divide in 64 bits, by a call
quotient = ptx("div.u32 $0, $1, $2;", i32, i32, i32, effect=False, memory=False)

load_f32 = ptx("ld.global.f32 $0, [$1];", f32, u64)
store_f32 = ptx("st.global.f32 [$0], $1;", none, u64, f32)
load_bf16 = ptx("{ .reg .b16 z, h; mov.b16 z, 0; ld.global.b16 h, [$1]; mov.b32 $0, {z, h}; }",
                f32, u64)  # widened: its bits are the upper half of a float32
store_bf16 = ptx("{ .reg .b16 h; cvt.rn.bf16.f32 h, $1; st.global.b16 [$0], h; }", none, u64, f32)
load_i32 = ptx("ld.global.b32 $0, [$1];", i32, u64)
load_shared_f32 = ptx("ld.shared.f32 $0, [$1];", f32, u32)
store_shared_f32 = ptx("st.shared.f32 [$0], $1;", none, u32, f32)

# what another block wrote before its release is seen after the acquire
load_acquire = ptx("ld.acquire.gpu.global.u32 $0, [$1];", u32, u64)
store_release = ptx("st.release.gpu.global.u32 [$0], $1;", none, u64, u32)
increment = ptx("atom.add.acq_rel.gpu.global.u32 $0, [$1], 1;", u32, u64)  # returns the old value
# old value; the counter goes from `b` back to 0
increment_cyclic = ptx("atom.inc.acq_rel.gpu.global.u32 $0, [$1], $2;", u32, u64, u32)
fence_gpu = ptx("fence.acq_rel.gpu;", none)

# lane 0's value for the whole warp: tells the compiler that it is uniform
uniform = ptx("shfl.sync.idx.b32 $0, $1, 0, 0x1f, 0xffffffff;", u32, u32)
# the value of the lane whose number differs in the bits of `b`
shuffle_xor = ptx("shfl.sync.bfly.b32 $0, $1, $2, 0x1f, 0xffffffff;", f32, f32, u32)
# the value of lane b % 32
shuffle_from = ptx("shfl.sync.idx.b32 $0, $1, $2, 0x1f, 0xffffffff;", f32, f32, u32)


@intrinsic
def shared_address(typingctx, array):
    """Address (u32) of a shared array in the shared window."""
    def generate(context, builder, sig, args):
        data = context.make_array(sig.args[0])(context, builder, args[0]).data
        text = "{ .reg .u64 t; cvta.to.shared.u64 t, $1; cvt.u32.u64 $0, t; }"
        return statement(builder, I32, [builder.ptrtoint(data, I64)], text, "=r,l", effect=False)
    return signature(u32, array), generate
