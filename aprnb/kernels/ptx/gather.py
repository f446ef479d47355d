"""Loads through lists: integers, and the rows of a matrix that a list names.

What lies behind the end of a list is not read. All loads of a call are in flight together.
"""
from .emit import (I32, I64, f32, i32, intrinsic, none, pack, ptx, signature, statement,
                   structure, types, u32, u64, unpack)
from .tiles import high_half, low_half

FOUR = types.UniTuple(f32, 4)
RECORD = 16  # bytes of a list entry, whose first 4 are the row

store_record = ptx("st.global.v4.b32 [$0], {$1, $2, $3, $4};", none, u64, i32, i32, i32, i32)


@intrinsic
def load_record(typingctx, address):
    """The four integers of a list entry."""
    def generate(context, builder, sig, args):
        out = statement(builder, structure(I32, 4), [args[0]],
                        "ld.global.v4.b32 {$0, $1, $2, $3}, [$4];", "=r,=r,=r,=r,l,~{memory}")
        return pack(builder, unpack(builder, out, 4))
    return signature(types.UniTuple(i32, 4), u64), generate


def make_load_integers(count, step):
    """load(address, left): integers 0, step, 2 * step, ... behind address; those from `left` on
    read as -1."""
    @intrinsic
    def load(typingctx, address, left):
        def generate(context, builder, sig, args):
            return pack(builder, [statement(
                builder, I32, list(args),
                f"{{ .reg .pred p; setp.gt.s32 p, $2, {j * step}; mov.b32 $0, -1; "
                f"@p ld.global.b32 $0, [$1+{4 * j * step}]; }}", "=&r,l,r,~{memory}")
                for j in range(count)])
        return signature(types.UniTuple(i32, count), u64, i32), generate
    return load


def make_gather(count):
    """gather(total, x, pitch, list, left): total + four columns of the first `count` rows named.

    x: address of the columns in row 0 of a bfloat16 matrix;  pitch: bytes between rows;  list:
    address of the first entry;  left: entries that exist. Rows are added in the list's order.
    """
    row_text = ("{{ .reg .pred p; setp.gt.s32 p, $2, {j}; mov.b32 $0, 0; "
                "@p ld.global.b32 $0, [$1+{at}]; }}")
    value_text = ("{{ .reg .pred p; setp.gt.s32 p, $3, {j}; mov.b32 $0, 0; mov.b32 $1, 0; "
                  "@p ld.global.L1::no_allocate.v2.b32 {{$0, $1}}, [$2]; }}")

    @intrinsic
    def gather(typingctx, total, x, pitch, entries, left):
        def generate(context, builder, sig, args):
            total, (x, pitch, entries, left) = unpack(builder, args[0], 4), args[1:]
            pitch = builder.zext(pitch, I64)
            rows = [statement(builder, I32, [entries, left], row_text.format(j=j, at=RECORD * j),
                              "=&r,l,r,~{memory}") for j in range(count)]
            found = [statement(builder, structure(I32, 2),
                               [builder.add(x, builder.mul(builder.zext(row, I64), pitch)), left],
                               value_text.format(j=j), "=&r,=&r,l,r,~{memory}")
                     for j, row in enumerate(rows)]
            for pair in found:
                values = [half(builder, word) for word in unpack(builder, pair, 2)
                          for half in (low_half, high_half)]
                total = [builder.fadd(t, v) for t, v in zip(total, values)]
            return pack(builder, total)
        return signature(FOUR, FOUR, u64, u32, u64, i32), generate
    return gather
