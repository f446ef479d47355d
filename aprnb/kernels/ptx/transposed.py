"""Packed accumulators that go to global memory and come back transposed, as A operands.

An accumulator of 64 x 64 (rows r, columns t, see wgmma.py), packed to bfloat16 pairs, is put as a
tile of 8192 bytes: blocks of 8 x 8, row after row in a block, 128 bytes each,

    place of (r, t) in bytes:  1024 (r / 8) + 128 (t / 8) + 16 (r % 8) + 2 (t % 8)

so that one pair of all lanes fills a block. A later kernel gets from the tile, in shared memory,
the A operand whose rows are t and whose k is r: `ldmatrix.trans` turns the blocks, without bank
conflicts.
"""
from ..cuda import device
from .emit import (I32, VOID, intrinsic, none, pack, signature, statement, structure, types, u32,
                   u64, unpack)

TILE = 8192  # bytes of 64 x 64 bfloat16
PAIRS = types.UniTuple(u32, 16)


@device
def put_place(t):
    """Bytes from the start of a tile to the first pair of thread t of the warpgroup."""
    return (t >> 5) * 2048 + (t & 31) * 4


@device
def get_place(t):
    """Bytes from the start of a tile to the row whose address thread t gives to ldmatrix."""
    return (t >> 5) * 256 + ((t >> 4) & 1) * 1024 + (t & 15) * 16


@intrinsic
def put(typingctx, pairs, address):
    """Store a lane's 16 pairs; address (u64): the tile's plus put_place."""
    def generate(context, builder, sig, args):
        for i, pair in enumerate(unpack(builder, args[0], 16)):
            at = 128 * (i // 2) + 1024 * (i % 2)  # two neighbours are 8 rows apart
            statement(builder, VOID, [args[1], pair], f"st.global.b32 [$0+{at}], $1;",
                      "l,r,~{memory}")
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
