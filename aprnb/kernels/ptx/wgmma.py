"""Matrix products of a warpgroup: 64 x N x 16 bfloat16, float32 accumulators (sm_90a).

    accumulator   N/2 floats; element 4j+e of lane l in warp w is row 16w + l/4 + 8*(e/2),
                  column 8j + 2*(l%4) + e%2
    A, registers  4 packed pairs a k-step of 16; pair 4k+i is elements 8k+2i, 8k+2i+1 of an
                  accumulator: the result of one product is the A operand of the next
    A, B, shared  128-byte swizzle, rows of 64 elements; K-major (a row holds k) or MN-major

PTX ISA 9.0, "Asynchronous warpgroup-level matrix instructions"; tests/test_ptx_layouts.py.
"""
from typing import NamedTuple

from .emit import (F32, I32, I64, LETTER, LLVM, constant, f32, i32, intrinsic, none, pack, ptx,
                   signature, statement, structure, types, u32, u64, unpack)


class Layout(NamedTuple):
    """How an operand lies in shared memory, in panels of 64 elements = 128 bytes a row."""

    descriptor: int
    """The matrix descriptor without its address, in units of 16 bytes: bits 0-13 address, 16-29
    leading offset, 32-45 stride offset (8 rows of 128 bytes), 62-63 layout (1 = swizzle of 128
    bytes)."""
    mn_major: bool
    panel: int
    """Bytes between the panels of a K-major operand that is wider than 64."""

    def offset(self, k):
        """Bytes from the first k-step of 16 to the k-th."""
        return 2048 * k if self.mn_major else k // 4 * self.panel + k % 4 * 32


def k_major(panel_bytes):
    """K-major of several panels along k, which lie that many bytes apart."""
    return Layout((1 << 62) | (64 << 32) | (1 << 16), False, panel_bytes)


def mn_major(panel_bytes):
    """MN-major: a row holds 64 of M or N for one k; the leading offset is the panels' distance."""
    return Layout((1 << 62) | (64 << 32) | ((panel_bytes >> 4) << 16), True, 0)


K_MAJOR = k_major(0)  # one panel: up to four k-steps
wait_1 = ptx("wgmma.wait_group.sync.aligned 1;", none)  # at most one group still in flight


def make_product(columns, k_steps=4, a=K_MAJOR, b=K_MAJOR, a_registers=False, fresh=False):
    """acc = product(acc, a, b, keep): k_steps products as one asynchronous group.

    a, b: shared addresses (u32) of the first k-step; with a_registers, a is a tuple of 4*k_steps
    packed pairs. keep = 0 starts from zero, 1 adds to acc; with fresh the call is
    acc = product(a, b). One statement holds fence, products and commit, so that the compiler
    schedules nothing into the group. The operands may be read until a wait has returned.
    """
    n = columns // 2
    text, letters, count = _group_text(columns, k_steps, a, b, a_registers, fresh)
    a_type = types.UniTuple(u32, count) if a_registers else u32
    acc = types.UniTuple(f32, n)

    def operands(builder, a_value, b_value):
        left = (unpack(builder, a_value, count) if a_registers
                else _slices(builder, a, a_value, k_steps))
        return left + _slices(builder, b, b_value, k_steps)

    def emit(builder, values):
        out = statement(builder, structure(F32, n), values, text, letters)
        return pack(builder, unpack(builder, out, n))

    if fresh:
        @intrinsic
        def product(typingctx, a, b):
            def generate(context, builder, sig, args):
                return emit(builder, operands(builder, *args))
            return signature(acc, a_type, u32), generate
    else:
        @intrinsic
        def product(typingctx, c, a, b, keep):
            def generate(context, builder, sig, args):
                return emit(builder, unpack(builder, args[0], n)
                            + operands(builder, args[1], args[2]) + [args[3]])
            return signature(acc, acc, a_type, u32, i32), generate
    return product


def _group_text(columns, k_steps, a, b, a_registers, fresh):
    """(PTX, constraints, number of A operands): outputs, tied inputs, A, B, keep."""
    n = columns // 2
    count = 4 * k_steps if a_registers else k_steps
    a0 = n if fresh else 2 * n
    b0, keep = a0 + count, a0 + count + k_steps
    acc = "{" + ",".join(f"${i}" for i in range(n)) + "}"
    lines = ["{ .reg .pred p;", "setp.ne.b32 p, 0, 0;" if fresh else f"setp.ne.b32 p, ${keep}, 0;",
             "wgmma.fence.sync.aligned;"]
    for k in range(k_steps):
        if a_registers:
            left = "{" + ",".join(f"${a0 + 4 * k + i}" for i in range(4)) + "}"
            majors = f"{int(b.mn_major)}"
        else:
            left, majors = f"${a0 + k}", f"{int(a.mn_major)}, {int(b.mn_major)}"
        lines.append(f"wgmma.mma_async.sync.aligned.m64n{columns}k16.f32.bf16.bf16 {acc}, {left}, "
                     f"${b0 + k}, {'1' if k else 'p'}, 1, 1, {majors};")
    lines.append("wgmma.commit_group.sync.aligned; }")
    letters = ["=f"] * n + ([] if fresh else [str(i) for i in range(n)])
    letters += ["r" if a_registers else "l"] * count + ["l"] * k_steps + ([] if fresh else ["r"])
    return " ".join(lines), ",".join(letters + ["~{memory}"]), count


def _slices(builder, layout, address, k_steps):
    """Descriptors of the k-steps of an operand that starts at a shared address."""
    low = builder.and_(builder.lshr(address, constant(I32, 4)), constant(I32, 0x3FFF))
    first = builder.or_(builder.zext(low, I64), constant(I64, layout.descriptor))
    return [builder.add(first, constant(I64, layout.offset(k) >> 4)) for k in range(k_steps)]


def make_accumulator(count, element=f32):
    """(zeros, wait_0, wait_1) of tuples of `count` values.

    wait_n(acc) returns acc once at most n groups are in flight: no use of it can move above.
    """
    acc, kind, letter = types.UniTuple(element, count), LLVM[element], LETTER[element]

    def waiter(groups):
        letters = ",".join([f"={letter}"] * count + [str(i) for i in range(count)] + ["~{memory}"])

        @intrinsic
        def wait(typingctx, acc_):
            def generate(context, builder, sig, args):
                out = statement(builder, structure(kind, count), unpack(builder, args[0], count),
                                f"wgmma.wait_group.sync.aligned {groups};", letters)
                return pack(builder, unpack(builder, out, count))
            return signature(acc, acc), generate
        return wait

    @intrinsic
    def zeros(typingctx):
        def generate(context, builder, sig, args):
            return pack(builder, [constant(kind, 0)] * count)
        return signature(acc), generate
    return zeros, waiter(0), waiter(1)


def make_operand(k_steps):
    """load(address, pitch, rows): A in registers from global memory, 64 rows of 16 * k_steps.

    address: row l/4, column 2*(l%4) of this warp's 16 rows;  pitch: bytes between rows;  rows: how
    many exist from there, the others are zero.
    """
    text = ("{{ .reg .pred p; setp.ne.b32 p, $2, 0; mov.b32 $0, 0; "
            "@p ld.global.b32 $0, [$1+{at}]; }}")

    @intrinsic
    def load(typingctx, address, pitch, rows):
        def generate(context, builder, sig, args):
            below = builder.add(args[0], builder.mul(args[1], constant(I64, 8)))
            place = [(at, builder.zext(builder.icmp_signed(">", args[2], constant(I32, n)), I32))
                     for at, n in ((args[0], 0), (below, 8))]
            return pack(builder, [
                statement(builder, I32, [*place[half]], text.format(at=32 * k + 16 * right),
                          "=&r,l,r,~{memory}")
                for k in range(k_steps) for right in range(2) for half in range(2)])
        return signature(types.UniTuple(u32, 4 * k_steps), u64, u64, i32), generate
    return load
