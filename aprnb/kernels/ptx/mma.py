"""Matrix products of a warp: 16 x 8 x 16 bfloat16, float32 sums (sm_80 and newer).

With g = lane / 4 and q = lane % 4, a lane holds of the 16 x 16 matrix A, the 16 x 8 matrix B and
the 16 x 8 matrix C, a pair being two bfloat16 in one register:

    A   pairs 0..3   rows g, g+8, g, g+8      columns 2q, 2q, 2q+8, 2q+8, each with the next
    B   pairs 0..1   rows 2q, 2q+8, each with the next                    column g
    C   floats 0..3  rows g, g, g+8, g+8      columns 2q, 2q+1, 2q, 2q+1

ldmatrix.x4 loads four 8 x 8 matrices: lane l gives the address of row l % 8 of matrix l / 8, and
receives of matrix i, in register i, columns 2q and 2q+1 of row g; with .trans rows 2q and 2q+1 of
column g.

PTX ISA 9.0, "Warp-level matrix instructions"; models in layouts.py, tests/test_ptx_layouts.py.
"""
from .emit import (F32, I32, VOID, constant, f32, i32, intrinsic, none, pack, ptx, signature,
                   statement, structure, types, u32, u64, unpack)

commit_copies = ptx("cp.async.commit_group;", none)  # this thread's copies so far: one group

_LDMATRIX = "ldmatrix.sync.aligned.m8n8.x4{}.shared.b16 {{$0, $1, $2, $3}}, [$4+{}];"
_MMA = ("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {$0, $1, $2, $3}, "
        "{$4, $5, $6, $7}, {$8, $9}, {$10, $11, $12, $13};")


def wait_copies(groups):
    """Waits until at most `groups` of this thread's committed groups are in flight."""
    return ptx(f"cp.async.wait_group {groups};", none)


def make_copy(count, lines_apart, bytes_apart, width=16):
    """copy(target, source, stride, lines, size): `count` asynchronous copies of 16 bytes, or 8.

    Copy i reads line i * lines_apart, i * stride bytes behind source (global), and writes
    i * bytes_apart behind target (shared): the first `size` bytes (0 to width) of a line below
    `lines`, zeros for the rest. What is not read need not exist.
    """
    level = "cg" if width == 16 else "ca"  # past the first cache go 16 bytes alone
    # one statement: as separate additions the compiler would keep every address in registers
    lines = ["{ .reg .b64 s; .reg .b32 n; .reg .pred p; mov.b64 s, $1;"]
    for i in range(count):
        lines.append(
            f"setp.gt.s32 p, $3, {i * lines_apart}; selp.b32 n, $4, 0, p; "
            f"cp.async.{level}.shared.global.L2::128B [$0+{i * bytes_apart}], [s], {width}, n;"
            + (" add.u64 s, s, $2;" if i < count - 1 else " }"))
    return ptx(" ".join(lines), none, u32, u64, u64, i32, i32)


def make_load(count, bytes_apart=0, transposed=False):
    """load(address): operand fragments of `count` x 16 rows (of A) or columns (of B), 16 deep.

    The i-th ldmatrix.x4 reads at address + i * bytes_apart; with `transposed` at address ^ 32 * i,
    the next 16 elements of swizzled lines that hold neighbouring rows of A or columns of B.
    """
    places = [(i << 5, 0) if transposed else (0, i * bytes_apart) for i in range(count)]

    @intrinsic
    def load(typingctx, address):
        def generate(context, builder, sig, args):
            out = []
            for flip, plus in places:
                at = builder.xor(args[0], constant(I32, flip))
                four = statement(builder, structure(I32, 4), [at],
                                 _LDMATRIX.format(".trans" if transposed else "", plus),
                                 "=r,=r,=r,=r,r,~{memory}")
                out += unpack(builder, four, 4)
            return pack(builder, out)
        return signature(types.UniTuple(u32, 4 * count), u32), generate
    return load


def make_product(rows, columns):
    """acc = product(acc, a, b): acc + A B, rows x 16 times 16 x columns.

    a: 4 pairs for every 16 rows;  b: 2 pairs for every 8 columns;  acc: 4 floats for every 16 x 8,
    rows of these tiles one after the other, so that 16 rows are laid out as in wgmma.py.
    """
    m, n = rows // 16, columns // 8
    acc_type = types.UniTuple(f32, 4 * m * n)

    @intrinsic
    def product(typingctx, acc, a, b):
        def generate(context, builder, sig, args):
            c, a, b = (unpack(builder, x, k) for x, k in zip(args, (4 * m * n, 4 * m, 2 * n)))
            for i in range(m):
                # there and back, so that neighbours share an operand
                for j in range(n) if i % 2 == 0 else reversed(range(n)):
                    at = 4 * (n * i + j)
                    out = statement(
                        builder, structure(F32, 4),
                        [*a[4 * i:4 * i + 4], *b[2 * j:2 * j + 2], *c[at:at + 4]], _MMA,
                        "=f,=f,=f,=f,r,r,r,r,r,r,0,1,2,3")
                    c[at:at + 4] = unpack(builder, out, 4)
            return pack(builder, c)
        return signature(acc_type, acc_type, types.UniTuple(u32, 4 * m),
                         types.UniTuple(u32, 2 * n)), generate
    return product


def make_staging(rows, columns):
    """put(acc, part, address): 32 of the rows x 64 columns to shared memory, as float32.

    part: which 32 rows, a compile-time constant. They lie in rows of 256 bytes, 16 bytes (chunk c
    of row r) at place c ^ c / 8 ^ 2 * (r % 4): neither this nor reading rows back, 16 or 32 bytes
    a lane, meets a bank conflict. address: `staged(g, q)` behind the first row.
    """
    acc_type = types.UniTuple(f32, rows * columns // 32)

    @intrinsic
    def put(typingctx, acc, part, address):
        if not isinstance(part, types.IntegerLiteral):
            return None
        first = part.literal_value * columns

        def generate(context, builder, sig, args):
            v = unpack(builder, args[0], rows * columns // 32)
            for j in range(columns // 8):
                at = builder.xor(args[2], constant(I32, j << 5 | j >> 2 << 4))
                for r in range(4):  # rows g, g + 8, g + 16, g + 24
                    i = first + r // 2 * (columns // 2) + 4 * j + 2 * (r % 2)
                    statement(builder, VOID, [at, v[i], v[i + 1]],
                              f"st.shared.v2.f32 [$0+{2048 * r}], {{$1, $2}};", "r,f,f,~{memory}")
            return context.get_dummy_value()
        return signature(none, acc_type, part, u32), generate
    return put


def make_partials(count):
    """(put, add) of accumulators of `count` floats in scratch memory.

    put(acc, address)   all of it, 16 bytes a lane, 128 lanes contiguous = 2048 bytes a step
    add(acc, address)   acc + what put left there
    """
    acc_type = types.UniTuple(f32, count)

    @intrinsic
    def put(typingctx, acc, address):
        def generate(context, builder, sig, args):
            v = unpack(builder, args[0], count)
            for j in range(count // 4):
                statement(builder, VOID, [args[1], *v[4 * j:4 * j + 4]],
                          f"st.global.v4.f32 [$0+{2048 * j}], {{$1, $2, $3, $4}};",
                          "l,f,f,f,f,~{memory}")
            return context.get_dummy_value()
        return signature(none, acc_type, u64), generate

    @intrinsic
    def add(typingctx, acc, address):
        def generate(context, builder, sig, args):
            v = unpack(builder, args[0], count)
            for j in range(count // 4):
                four = statement(builder, structure(F32, 4), [args[1]],
                                 f"ld.global.v4.f32 {{$0, $1, $2, $3}}, [$4+{2048 * j}];",
                                 "=f,=f,=f,=f,l,~{memory}")
                for i, x in enumerate(unpack(builder, four, 4)):
                    v[4 * j + i] = builder.fadd(v[4 * j + i], x)
            return pack(builder, v)
        return signature(acc_type, acc_type, u64), generate
    return put, add
