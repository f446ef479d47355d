"""SwiGLU and its gradient on accumulators; equations in kernels/swiglu.py.

Pairs: two neighbouring columns of one row as bfloat16 in 32 bits; pair 2j + h of a lane holds
elements 4j + 2h, 4j + 2h + 1 of an accumulator (layout in wgmma.py).
"""
import math

from .emit import (F32, I32, VOID, constant, f32, intrinsic, none, pack, signature, statement,
                   types, u32, unpack)
from .tiles import bfloat16_pair, exp2, high_half, low_half

LOG2_E = math.log2(math.e)


def make_shared_pairs(columns):
    """(load, store) of the pairs of 64 x columns in shared memory, chunks of 64 x 64 one after
    the other with the 128-byte swizzle, as the copy engine leaves and takes them.

    load(address), store(pairs, address); address: this lane's first pair, swizzled: row r = l/4 of
    its warp's 16, at 128 r + 16 (r % 8) + 4 (l % 4). Each lane reads and writes its own pairs, so
    the result may take the place of what was read. No bank conflicts.
    """
    pairs = types.UniTuple(u32, columns // 4)

    def places(builder, address):
        for chunk in range(columns // 64):
            for j in range(8):
                at = builder.xor(address, constant(I32, j << 4))
                for half in range(2):
                    yield at, 8192 * chunk + 1024 * half

    @intrinsic
    def load(typingctx, address):
        def generate(context, builder, sig, args):
            return pack(builder, [
                statement(builder, I32, [at], f"ld.shared.b32 $0, [$1+{offset}];",
                          "=r,r,~{memory}") for at, offset in places(builder, args[0])])
        return signature(pairs, u32), generate

    @intrinsic
    def store(typingctx, values, address):
        def generate(context, builder, sig, args):
            found = unpack(builder, args[0], columns // 4)
            for value, (at, offset) in zip(found, places(builder, args[1])):
                statement(builder, VOID, [at, value], f"st.shared.b32 [$0+{offset}], $1;",
                          "r,r,~{memory}")
            return context.get_dummy_value()
        return signature(none, pairs, u32), generate
    return load, store


def make_swiglu(columns):
    """(forward, gradient) of 64 x columns tiles.

    forward(acc)               acc holds gate, then up, 2 * columns wide; pairs of silu(gate) * up
                               of both as they are stored
    gradient(acc, pairs)       acc is the gradient of silu(gate) * up, pairs are those of gate, then
                               of up; the pairs of both gradients in the same order
    """
    n = columns // 2
    wide, pairs = types.UniTuple(f32, 2 * n), types.UniTuple(u32, n // 2)
    both_pairs = types.UniTuple(u32, n)

    @intrinsic
    def forward(typingctx, acc):
        def generate(context, builder, sig, args):
            v, out = unpack(builder, args[0], 2 * n), []
            for i in range(0, n, 2):
                gate = _halves(builder, bfloat16_pair(builder, v[i], v[i + 1]))
                up = _halves(builder, bfloat16_pair(builder, v[n + i], v[n + i + 1]))
                y = [builder.fmul(builder.fmul(g, _sigmoid(builder, g)), u)
                     for g, u in zip(gate, up)]
                out.append(bfloat16_pair(builder, *y))
            return pack(builder, out)
        return signature(pairs, wide), generate

    @intrinsic
    def gradient(typingctx, acc, found):
        def generate(context, builder, sig, args):
            v, both = unpack(builder, args[0], n), unpack(builder, args[1], n)
            d_gate, d_up = [], []
            for p in range(n // 2):
                two = [_gradients(builder, d, g, u) for d, g, u in
                       zip(v[2 * p:2 * p + 2], _halves(builder, both[p]),
                           _halves(builder, both[n // 2 + p]))]
                d_gate.append(bfloat16_pair(builder, two[0][0], two[1][0]))
                d_up.append(bfloat16_pair(builder, two[0][1], two[1][1]))
            return pack(builder, d_gate + d_up)
        return signature(both_pairs, types.UniTuple(f32, n), both_pairs), generate
    return forward, gradient


def _halves(builder, pair):
    return low_half(builder, pair), high_half(builder, pair)


def _sigmoid(builder, g):
    """1 / (1 + 2 ** (-g log2 e)); where that overflows, 1 / inf is the 0 that is right."""
    e = exp2(builder, builder.fmul(g, constant(F32, -LOG2_E)))
    total = builder.fadd(e, constant(F32, 1.0))
    return statement(builder, F32, [total], "rcp.approx.ftz.f32 $0, $1;", "=f,f", effect=False)


def _gradients(builder, d, g, u):
    """(of the gate, of up), given the gradient d of silu(g) * u."""
    one, s = constant(F32, 1.0), _sigmoid(builder, g)
    slope = builder.fadd(one, builder.fmul(g, builder.fsub(one, s)))
    ds = builder.fmul(d, s)
    return builder.fmul(builder.fmul(ds, u), slope), builder.fmul(ds, g)


def make_stage_pairs(width):
    """stage(pairs, c, address): chunk c of `width` columns to shared memory, as tiles.make_stage;
    any number of pairs that holds whole chunks."""
    @intrinsic
    def stage(typingctx, pairs, c, address):
        if not isinstance(c, types.IntegerLiteral):
            return None
        first = c.literal_value * width // 4

        def generate(context, builder, sig, args):
            for q in range(width // 16):
                four = [builder.extract_value(args[0], first + 4 * q + i) for i in range(4)]
                at = builder.xor(args[2], constant(I32, q << 5))
                statement(builder, VOID, [at, *four],
                          "stmatrix.sync.aligned.m8n8.x4.shared.b16 [$0], {$1, $2, $3, $4};",
                          "r,r,r,r,r,~{memory}")
            return context.get_dummy_value()
        return signature(none, pairs, c, u32), generate
    return stage
