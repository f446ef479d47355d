"""SwiGLU and its gradient on accumulators; equations in kernels/swiglu.py.

Pairs: two neighbouring columns of one row as bfloat16 in 32 bits; pair 2j + h of a lane holds
elements 4j + 2h, 4j + 2h + 1 of an accumulator (layout in wgmma.py).
"""
import math

from .emit import (F32, I32, I64, VOID, constant, f32, i32, intrinsic, none, pack, signature,
                   statement, types, u32, u64, unpack)
from .tiles import bfloat16_pair, exp2, high_half, low_half

LOG2_E = math.log2(math.e)


def make_load_pairs(columns):
    """load(address, pitch, rows, cols): the pairs of a 64 x columns tile in global memory.

    address: this lane's first element; pitch: bytes between rows; rows, cols: how many from there
    exist; beyond them pairs are zero.
    """
    pairs = types.UniTuple(u32, columns // 4)
    text = ("{{ .reg .pred p; setp.ne.b32 p, $2, 0; mov.b32 $0, 0; "
            "@p ld.global.b32 $0, [$1+{at}]; }}")

    @intrinsic
    def load(typingctx, address, pitch, rows, cols):
        def generate(context, builder, sig, args):
            below = builder.add(args[0], builder.mul(args[1], constant(I64, 8)))
            out = []
            for j in range(columns // 8):
                inside = builder.icmp_signed(">", args[3], constant(I32, 8 * j))
                for half, base in enumerate((args[0], below)):
                    exists = builder.icmp_signed(">", args[2], constant(I32, 8 * half))
                    ok = builder.zext(builder.and_(exists, inside), I32)
                    out.append(statement(builder, I32, [base, ok], text.format(at=16 * j),
                                         "=&r,l,r,~{memory}"))
            return pack(builder, out)
        return signature(pairs, u64, u64, i32, i32), generate
    return load


def make_swiglu(columns):
    """(forward, gradient) of 64 x columns tiles.

    forward(acc)               acc holds gate, then up, 2 * columns wide; pairs of silu(gate) * up
                               of both as they are stored
    gradient(acc, gate, up)    acc is the gradient of silu(gate) * up; the pairs of the gate's
                               gradient, then those of the up projection's
    """
    n = columns // 2
    wide, pairs = types.UniTuple(f32, 2 * n), types.UniTuple(u32, n // 2)

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
    def gradient(typingctx, acc, gate, up):
        def generate(context, builder, sig, args):
            v = unpack(builder, args[0], n)
            gates, ups = (unpack(builder, x, n // 2) for x in args[1:])
            d_gate, d_up = [], []
            for p in range(n // 2):
                found = [_gradients(builder, d, g, u) for d, g, u in
                         zip(v[2 * p:2 * p + 2], _halves(builder, gates[p]),
                             _halves(builder, ups[p]))]
                d_gate.append(bfloat16_pair(builder, found[0][0], found[1][0]))
                d_up.append(bfloat16_pair(builder, found[0][1], found[1][1]))
            return pack(builder, d_gate + d_up)
        return signature(types.UniTuple(u32, n), types.UniTuple(f32, n), pairs, pairs), generate
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
