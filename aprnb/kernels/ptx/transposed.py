"""Packed accumulators that go to global memory and come back transposed, as A operands.

An accumulator of 64 x 64 (rows r, columns t, see wgmma.py) packed to bfloat16 pairs is put as one
run of 8192 bytes, and a later kernel gets from it the A operand whose rows are t and whose k is r.
Nothing is exchanged between lanes: a lane's eight pairs of a row are two runs of 16 bytes, and
`ldmatrix.trans` turns such runs.

    place    2048 w + 512 (2 half + g) + 16 (4 i + (c ^ i/2)) + 4 j + 2 e
    holds    row 16 w + 8 half + i, column 32 g + 8 j + 2 c + e        i < 8, c < 4, j < 4, e < 2

The XOR spreads the eight runs that one matrix of ldmatrix takes over all banks. The operand's rows
come in the order of the runs: row 32 g + 8 c + 2 j + e of a product is column 32 g + 8 j + 2 c + e
of what was put (`row_of`, its own inverse).
"""
from ..cuda import device
from .emit import (I32, VOID, intrinsic, none, pack, signature, statement, structure, types, u32,
                   u64, unpack)

TILE = 8192  # bytes of 64 x 64 bfloat16
PAIRS = types.UniTuple(u32, 16)


@device
def put_place(t):
    """Bytes from the start of a tile to what thread t of the warpgroup puts first."""
    lane = t & 31
    return (t >> 5) * 2048 + (lane >> 2) * 64 + (((lane & 3) ^ (lane >> 3)) << 4)


@device
def get_place(t):
    """Bytes from the start of a tile to the run whose address thread t gives to ldmatrix."""
    lane = t & 31
    i, c, half = lane & 7, ((t >> 5) & 1) * 2 + ((lane >> 3) & 1), lane >> 4
    return (2 * half + (t >> 6)) * 512 + i * 64 + ((c ^ (i >> 1)) << 4)


@device
def row_of(m):
    """The row of the result that row m of the product belongs to."""
    return (m & 0x21) | ((m & 6) << 2) | ((m & 0x18) >> 2)


@intrinsic
def put(typingctx, pairs, address):
    """Store a lane's 16 pairs; address (u64): the tile's plus put_place."""
    def generate(context, builder, sig, args):
        pairs = unpack(builder, args[0], 16)
        for half in range(2):
            for g in range(2):
                run = [pairs[2 * (4 * g + j) + half] for j in range(4)]
                statement(builder, VOID, [args[1], *run],
                          f"st.global.v4.b32 [$0+{512 * (2 * half + g)}], {{$1, $2, $3, $4}};",
                          "l,r,r,r,r,~{memory}")
        return context.get_dummy_value()
    return signature(none, PAIRS, u64), generate


@intrinsic
def get(typingctx, address):
    """The A operand of four k-steps; address (u32, shared): the tile's plus get_place."""
    def generate(context, builder, sig, args):
        words = []
        for k in range(4):
            words += unpack(builder, statement(
                builder, structure(I32, 4), [args[0]],
                "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 "
                f"{{$0, $1, $2, $3}}, [$4+{2048 * k}];", "=r,=r,=r,=r,r,~{memory}"), 4)
        return pack(builder, words)
    return signature(PAIRS, u32), generate
