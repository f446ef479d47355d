"""Loads through lists: integers, and the rows of a matrix that a list names.

What lies behind the end of a list is not read. All loads of a call are in flight together.
"""
from .emit import (F32, I32, I64, f32, i32, intrinsic, none, pack, ptx, signature, statement,
                   structure, types, u32, u64, unpack)
from .tiles import high_half, low_half

FOUR = types.UniTuple(f32, 4)
RECORD = 16  # bytes of a list entry, whose first 4 are the row
# four columns of row j, in as many words as an element has bytes
_FOUR_BFLOAT16 = ("{{ .reg .pred p; setp.gt.s32 p, $3, {j}; mov.b32 $0, 0; mov.b32 $1, 0; "
                  "@p ld.global.L1::no_allocate.v2.b32 {{$0, $1}}, [$2]; }}")
_FOUR_FLOATS = ("{{ .reg .pred p; setp.gt.s32 p, $5, {j}; mov.b32 $0, 0; mov.b32 $1, 0; "
                "mov.b32 $2, 0; mov.b32 $3, 0; "
                "@p ld.global.L1::no_allocate.v4.b32 {{$0, $1, $2, $3}}, [$4]; }}")

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


def make_gather(count, item=2):
    """gather(total, x, pitch, list, left): total + four columns of the first `count` rows named.

    x: address of the columns in row 0 of a matrix whose elements have `item` bytes: bfloat16, or 4:
    float32;  pitch: bytes between rows;  list: address of the first entry;  left: entries that
    exist. Rows are added in the list's order.
    """
    value_text = _FOUR_BFLOAT16 if item == 2 else _FOUR_FLOATS
    row_text = ("{{ .reg .pred p; setp.gt.s32 p, $2, {j}; mov.b32 $0, 0; "
                "@p ld.global.b32 $0, [$1+{at}]; }}")

    @intrinsic
    def gather(typingctx, total, x, pitch, entries, left):
        def generate(context, builder, sig, args):
            total, (x, pitch, entries, left) = unpack(builder, args[0], 4), args[1:]
            pitch = builder.zext(pitch, I64)
            rows = [statement(builder, I32, [entries, left], row_text.format(j=j, at=RECORD * j),
                              "=&r,l,r,~{memory}") for j in range(count)]
            found = [statement(builder, structure(I32, item),
                               [builder.add(x, builder.mul(builder.zext(row, I64), pitch)), left],
                               value_text.format(j=j), "=&r," * item + "l,r,~{memory}")
                     for j, row in enumerate(rows)]
            for words in found:
                values = _floats(builder, unpack(builder, words, item), item)
                total = [builder.fadd(t, v) for t, v in zip(total, values)]
            return pack(builder, total)
        return signature(FOUR, FOUR, u64, u32, u64, i32), generate
    return gather


def _floats(builder, words, item):
    if item == 4:
        return [builder.bitcast(word, F32) for word in words]
    return [half(builder, word) for word in words for half in (low_half, high_half)]
