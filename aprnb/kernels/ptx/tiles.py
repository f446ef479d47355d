"""Rows, columns and stores of the accumulators that wgmma fills.

An accumulator of 64 x N holds two rows a lane: elements 4j, 4j+1 belong to row l/4, elements
4j+2, 4j+3 to row l/4 + 8 (layout in wgmma.py). A PAIR is one value for each of the two.
`make_rows(N)` gives the operations on rows, `make_columns(N)` those on columns, whose values come
from shared memory (products transposed so that rows are keys).
"""
from types import SimpleNamespace

from .emit import (F32, I32, I64, VOID, constant, f32, i32, intrinsic, none, pack, signature,
                   statement, structure, types, u32, u64, unpack)

PAIR = types.UniTuple(f32, 2)


def _float_op(builder, text, *operands):
    return statement(builder, F32, list(operands), text, "=f" + ",f" * len(operands), effect=False)


def maximum(builder, x, y):
    return _float_op(builder, "max.f32 $0, $1, $2;", x, y)


def multiply_add(builder, x, y, z):
    return _float_op(builder, "fma.rn.f32 $0, $1, $2, $3;", x, y, z)


def exp2(builder, x, pinned=False):
    """pinned: stays in its basic block, where a pure value may sink past the wait behind it"""
    return statement(builder, F32, [x], "ex2.approx.ftz.f32 $0, $1;", "=f,f", effect=pinned)


def negative(builder, x):
    return builder.fsub(constant(F32, -0.0), x)  # the compiler's IR has no fneg


def bfloat16_pair(builder, low, high):
    return statement(builder, I32, [high, low], "cvt.rn.bf16x2.f32 $0, $1, $2;", "=r,f,f",
                     effect=False)


def low_half(builder, word):
    """The first of a pair of bfloat16, widened."""
    return builder.bitcast(builder.shl(word, constant(I32, 16)), F32)


def high_half(builder, word):
    return builder.bitcast(builder.and_(word, constant(I32, 0xFFFF0000)), F32)


def reduce(builder, values, op, chains=4):
    """Independent chains, then a tree: short dependences."""
    heads = values[:chains]
    for i, value in enumerate(values[chains:]):
        heads[i % chains] = op(builder, heads[i % chains], value)
    while len(heads) > 1:
        heads = [op(builder, heads[i], heads[i + 1]) for i in range(0, len(heads), 2)]
    return heads[0]


def add(builder, x, y):
    return builder.fadd(x, y)


def across_quad(builder, x, op):
    """Reduced over the four lanes that share a row."""
    for distance in (1, 2):
        text = f"shfl.sync.bfly.b32 $0, $1, {distance}, 0x1f, 0xffffffff;"
        x = op(builder, x, statement(builder, F32, [x], text, "=f,f"))
    return x


@intrinsic
def quad_sum(typingctx, pair):
    """Both values summed over the four lanes of a row."""
    def generate(context, builder, sig, args):
        return pack(builder, [across_quad(builder, x, add) for x in unpack(builder, args[0], 2)])
    return signature(PAIR, PAIR), generate


def _row(i):
    """Which of a lane's two rows element i belongs to."""
    return (i >> 1) & 1


def _column(i):
    """Column of element i minus its row, both from this lane's element 0."""
    return 8 * (i // 4) + (i & 1) - 8 * _row(i)


def _elementwise(count, body, *more):
    """An intrinsic acc -> acc; body(builder, values, *others) returns the new values."""
    acc = types.UniTuple(f32, count)

    def generate(context, builder, sig, args):
        return pack(builder, body(builder, unpack(builder, args[0], count), *args[1:]))
    if len(more) == 1:
        @intrinsic
        def op(typingctx, acc_, a):
            return signature(acc, acc, *more), generate
    else:
        @intrinsic
        def op(typingctx, acc_, a, b):
            return signature(acc, acc, *more), generate
    return op


def make_rows(columns, pinned=False):
    """Row operations on 64 x columns accumulators, as a namespace:

    row_max(acc, init)         PAIR: max(init, row) over the whole row
    row_sum(acc, init, scale)  PAIR: init * scale + this lane's part of the row
    exp2(acc, c, shift)        2 ** (acc * c - shift[row])
    scale(acc, factor)         acc * factor[row]
    causal(acc, d)             -inf right of the diagonal; d = row - column of element 0
    gradient(p, dp, delta)     p * (dp - delta[row]): of the softmax
    to_bf16(acc)               packed pairs: the A operand of the next product
    """
    n = columns // 2
    acc = types.UniTuple(f32, n)

    def rows_of(values):
        return [[v for i, v in enumerate(values) if _row(i) == r] for r in range(2)]

    @intrinsic
    def row_max(typingctx, acc_, init):
        def generate(context, builder, sig, args):
            rows, start = rows_of(unpack(builder, args[0], n)), unpack(builder, args[1], 2)
            tops = [across_quad(builder, reduce(builder, row, maximum), maximum) for row in rows]
            return pack(builder, [maximum(builder, s, t) for s, t in zip(start, tops)])
        return signature(PAIR, acc, PAIR), generate

    @intrinsic
    def row_sum(typingctx, acc_, init, scale):
        def generate(context, builder, sig, args):
            rows = rows_of(unpack(builder, args[0], n))
            start, factor = (unpack(builder, a, 2) for a in args[1:])
            return pack(builder, [multiply_add(builder, start[r], factor[r],
                                               reduce(builder, rows[r], add)) for r in range(2)])
        return signature(PAIR, acc, PAIR, PAIR), generate

    def exponentials(builder, values, c, shift):
        shift = [negative(builder, x) for x in unpack(builder, shift, 2)]
        return [exp2(builder, multiply_add(builder, v, c, shift[_row(i)]), pinned)
                for i, v in enumerate(values)]

    def scaled(builder, values, factor):
        factor = unpack(builder, factor, 2)
        return [builder.fmul(v, factor[_row(i)]) for i, v in enumerate(values)]

    def gradients(builder, values, dp, delta):
        dp, delta = unpack(builder, dp, n), unpack(builder, delta, 2)
        return [builder.fmul(p, builder.fsub(dp[i], delta[_row(i)])) for i, p in enumerate(values)]

    @intrinsic
    def to_bf16(typingctx, acc_):
        def generate(context, builder, sig, args):
            v = unpack(builder, args[0], n)
            return pack(builder, [bfloat16_pair(builder, v[2 * i], v[2 * i + 1])
                                  for i in range(n // 2)])
        return signature(types.UniTuple(u32, n // 2), acc), generate

    return SimpleNamespace(
        row_max=row_max, row_sum=row_sum, to_bf16=to_bf16,
        exp2=_elementwise(n, exponentials, f32, PAIR), scale=_elementwise(n, scaled, PAIR),
        causal=_elementwise(n, _masked("<="), i32),
        gradient=_elementwise(n, gradients, acc, PAIR))


def make_columns(columns):
    """Column operations on transposed accumulators (rows are keys, columns queries).

    The column values are floats in shared memory; `address` points at column 2 * (lane % 4).

    exp2(acc, c, address)      2 ** (acc * c - shift[column])
    gradient(p, dp, address)   p * (dp - delta[column])
    causal(acc, d)             -inf where the query is before the key; d as in make_rows
    """
    n = columns // 2
    acc = types.UniTuple(f32, n)

    def load(builder, address):
        out = []
        for j in range(columns // 8):
            two = statement(builder, structure(F32, 2), [address],
                            f"ld.shared.v2.f32 {{$0, $1}}, [$2+{32 * j}];", "=f,=f,r,~{memory}")
            out += unpack(builder, two, 2) * 2
        return out

    def exponentials(builder, values, c, address):
        shift = load(builder, address)
        return [exp2(builder, multiply_add(builder, v, c, negative(builder, shift[i])), True)
                for i, v in enumerate(values)]

    def gradients(builder, values, dp, address):
        dp, delta = unpack(builder, dp, n), load(builder, address)
        return [builder.fmul(p, builder.fsub(dp[i], delta[i])) for i, p in enumerate(values)]

    return SimpleNamespace(exp2=_elementwise(n, exponentials, f32, u32),
                           gradient=_elementwise(n, gradients, acc, u32),
                           causal=_elementwise(n, _masked(">="), i32))


def _masked(order):
    def body(builder, values, d):
        low = constant(F32, float("-inf"))
        return [builder.select(builder.icmp_signed(order, constant(I32, _column(i)), d), v, low)
                for i, v in enumerate(values)]
    return body


def make_widen(columns):
    """widen(acc): 64 x columns/2 to 64 x columns, zeros on the right."""
    n = columns // 2

    @intrinsic
    def widen(typingctx, acc):
        def generate(context, builder, sig, args):
            return pack(builder, unpack(builder, args[0], n // 2)
                        + [constant(F32, 0.0)] * (n // 2))
        return signature(types.UniTuple(f32, n), types.UniTuple(f32, n // 2)), generate
    return widen


# ---------------------------------------------------------------- stores

def make_stage(columns, width, start=0):
    """stage(acc, c, address): columns [c*width, (c+1)*width) as bfloat16 to shared memory,
    counted from column `start`.

    c is a compile-time constant; beyond the last column nothing is stored. address: this lane's
    row (lanes 0-15 the rows of the left 8 columns, 16-31 of the right 8) with the swizzle of its
    first 16 bytes applied; the next pair of 8 columns lies at address ^ 32.
    """
    acc_type = types.UniTuple(f32, columns // 2)

    @intrinsic
    def stage(typingctx, acc, c, address):
        if not isinstance(c, types.IntegerLiteral):
            return None
        first = (start + c.literal_value * width) // 8

        def generate(context, builder, sig, args):
            for q in range(width // 16 if first < columns // 8 else 0):
                j = first + 2 * q
                v = [builder.extract_value(args[0], 4 * j + i) for i in range(8)]
                pairs = [bfloat16_pair(builder, v[2 * i], v[2 * i + 1]) for i in range(4)]
                at = builder.xor(args[2], constant(I32, q << 5))
                statement(builder, VOID, [at, *pairs],
                          "stmatrix.sync.aligned.m8n8.x4.shared.b16 [$0], {$1, $2, $3, $4};",
                          "r,r,r,r,r,~{memory}")
            return context.get_dummy_value()
        return signature(none, acc_type, c, u32), generate
    return stage


def make_store(columns, accumulate=False, bfloat16=False):
    """store(acc, address, pitch, rows, cols): to global memory, two neighbouring columns a lane.

    address: this lane's first element; pitch: bytes between rows; rows, cols: how many rows and
    columns from there exist. Float32, optionally added to what is there, or bfloat16.
    """
    n, size = columns // 2, 2 if bfloat16 else 4
    acc_type = types.UniTuple(f32, n)
    write = "@p st.global.b32 [$0+{at}], $1;" if bfloat16 else "@p st.global.v2.f32 [$0+{at}], "
    if not bfloat16:
        write = ("@p ld.global.v2.f32 {{x, y}}, [$0+{at}]; add.f32 x, x, $1; add.f32 y, y, $2; "
                 + write + "{{x, y}};" if accumulate else write + "{{$1, $2}};")

    def body(builder, acc, address, pitch, rows, cols):
        for half in range(2):
            base = builder.add(address, builder.mul(pitch, constant(I64, 8))) if half else address
            exists = builder.icmp_signed(">", rows, constant(I32, 8 * half))
            for j in range(columns // 8):
                inside = builder.icmp_signed(">", cols, constant(I32, 8 * j))
                ok = builder.zext(builder.and_(exists, inside), I32)
                v = [builder.extract_value(acc, 4 * j + 2 * half + i) for i in range(2)]
                v = [bfloat16_pair(builder, *v)] if bfloat16 else v
                text = ("{{ .reg .pred p; .reg .f32 x, y; setp.ne.b32 p, ${last}, 0; " + write
                        + " }}").format(at=8 * j * size, last=len(v) + 1)
                letters = "l,r,r" if bfloat16 else "l,f,f,r"
                statement(builder, VOID, [base, *v, ok], text, letters + ",~{memory}")

    @intrinsic
    def store(typingctx, acc, address, pitch, rows, cols):
        def generate(context, builder, sig, args):
            body(builder, *args)
            return context.get_dummy_value()
        return signature(none, acc_type, u64, u64, i32, i32), generate
    return store


def make_partials(count, parts=1):
    """(put, gather) of accumulators of `count` floats in scratch memory.

    put(acc, address)       all of it, 16 bytes a lane, 128 lanes contiguous = 2048 bytes a step
    gather(address, step)   the sum, in order, of the first 16 floats (32 columns) of `parts` such
                            accumulators, `step` bytes apart
    """
    acc_type, part = types.UniTuple(f32, count), types.UniTuple(f32, 16)

    @intrinsic
    def put(typingctx, acc, address):
        def generate(context, builder, sig, args):
            for j in range(count // 4):
                v = [builder.extract_value(args[0], 4 * j + i) for i in range(4)]
                statement(builder, VOID, [args[1], *v],
                          f"st.global.v4.f32 [$0+{2048 * j}], {{$1, $2, $3, $4}};",
                          "l,f,f,f,f,~{memory}")
            return context.get_dummy_value()
        return signature(none, acc_type, u64), generate

    @intrinsic
    def gather(typingctx, address, step):
        def generate(context, builder, sig, args):
            found = []
            for q in range(parts):  # all loads before the first sum: they overlap
                at = builder.add(args[0], builder.mul(args[1], constant(I64, q)))
                quads = [statement(builder, structure(F32, 4), [at],
                                   f"ld.global.v4.f32 {{$0, $1, $2, $3}}, [$4+{2048 * j}];",
                                   "=f,=f,=f,=f,l,~{memory}") for j in range(4)]
                found.append([v for quad in quads for v in unpack(builder, quad, 4)])
            total = found[0]
            for more in found[1:]:
                total = [builder.fadd(x, y) for x, y in zip(total, more)]
            return pack(builder, total)
        return signature(part, u64, u64), generate
    return put, gather


def make_add_columns(columns):
    """add(acc, address, cols): acc + one bfloat16 a column, from global memory.

    address: the value of this lane's first column;  cols: how many columns from there exist.
    """
    n = columns // 2
    acc_type = types.UniTuple(f32, n)
    text = ("{{ .reg .pred p; setp.ne.b32 p, $2, 0; mov.b32 $0, 0; "
            "@p ld.global.nc.b32 $0, [$1+{at}]; }}")

    @intrinsic
    def add_columns(typingctx, acc, address, cols):
        def generate(context, builder, sig, args):
            values = unpack(builder, args[0], n)
            for j in range(columns // 8):
                ok = builder.zext(builder.icmp_signed(">", args[2], constant(I32, 8 * j)), I32)
                two = statement(builder, I32, [args[1], ok], text.format(at=16 * j), "=&r,l,r")
                for half in range(2):
                    i = 4 * j + 2 * half
                    values[i] = builder.fadd(values[i], low_half(builder, two))
                    values[i + 1] = builder.fadd(values[i + 1], high_half(builder, two))
            return pack(builder, values)
        return signature(acc_type, acc_type, u64, i32), generate
    return add_columns
