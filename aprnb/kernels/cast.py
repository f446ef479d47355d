"""Moves between storage type (float32, bfloat16) and float32, in which all arithmetic is done.

    widen(x[i])       the stored value as float32: exact
    narrow(y, v)      the float32 v rounded to nearest even into y's type, to be stored in y

On hardware each is one instruction, in the simulator NumPy rounds as it stores.
"""
from .cuda import SIMULATOR, float32

if SIMULATOR:
    widen = float32

    def narrow(y, v):
        return v
else:
    from llvmlite import ir

    from .cuda import intrinsic, signature, types

    BITS16, BITS32, FLOAT = ir.IntType(16), ir.IntType(32), ir.FloatType()

    @intrinsic
    def widen(typingctx, v):
        """bfloat16 is the upper half of a float32: shift its bits into place."""
        if v == types.float32:
            return signature(v, v), lambda context, builder, sig, args: args[0]
        if v != types.bfloat16:
            return None

        def shift(context, builder, sig, args):
            bits = builder.shl(builder.zext(args[0], BITS32), ir.Constant(BITS32, 16))
            return builder.bitcast(bits, FLOAT)
        return signature(types.float32, v), shift

    @intrinsic
    def narrow(typingctx, y, v):
        """cvt.rn.bf16.f32 (compute capability 8.0 or newer) when y stores bfloat16."""
        if y.dtype == types.float32:
            return signature(types.float32, y, v), lambda context, builder, sig, args: args[1]
        if y.dtype != types.bfloat16:
            return None

        def convert(context, builder, sig, args):
            text = ir.InlineAsm(ir.FunctionType(BITS16, [FLOAT]),
                                "cvt.rn.bf16.f32 $0, $1;", "=h,f")
            return builder.call(text, [args[1]])
        return signature(types.bfloat16, y, types.float32), convert
