"""How one PTX statement becomes a function that kernels call."""
from llvmlite import ir

from ..cuda import intrinsic, signature, types

F32, I32, I64, VOID = ir.FloatType(), ir.IntType(32), ir.IntType(64), ir.VoidType()
f32, i32, u32, i64, u64 = types.float32, types.int32, types.uint32, types.int64, types.uint64
none = types.none
LLVM = {f32: F32, i32: I32, u32: I32, i64: I64, u64: I64}
LETTER = {f32: "f", i32: "r", u32: "r", i64: "l", u64: "l"}  # of a register in a constraint


def statement(builder, result, operands, text, constraints, effect=True):
    """One PTX statement in LLVM IR; `effect` keeps it in place even if its result is unused."""
    shape = ir.FunctionType(result, [x.type for x in operands])
    return builder.call(ir.InlineAsm(shape, text, constraints, side_effect=effect), operands)


def ptx(text, result, *arguments, effect=True, memory=True):
    """A function that is one PTX template: $0 is the result where there is one, then arguments.

    memory: the compiler must not move loads and stores across it.
    """
    letters = [f"={LETTER[result]}"] if result is not none else []
    letters += [LETTER[a] for a in arguments] + (["~{memory}"] if memory else [])

    def body(*_):
        def generate(context, builder, sig, values):
            kind = VOID if result is none else LLVM[result]
            out = statement(builder, kind, list(values), text, ",".join(letters), effect)
            return context.get_dummy_value() if result is none else out
        return signature(result, *arguments), generate
    return intrinsic(with_parameters(len(arguments), body))


def with_parameters(count, body):
    """`body` with that many named parameters: intrinsics are recognised by them."""
    names = ", ".join("abcdefgh"[:count])
    return eval(f"lambda typingctx, {names}: body({names})", {"body": body})


def unpack(builder, value, count):
    """The elements of a tuple or of a structure."""
    return [builder.extract_value(value, i) for i in range(count)]


def pack(builder, values):
    """A tuple of values of one type."""
    out = ir.Constant(ir.ArrayType(values[0].type, len(values)), ir.Undefined)
    for i, value in enumerate(values):
        out = builder.insert_value(out, value, i)
    return out


def structure(kind, count):
    """The LLVM type of a statement with several results."""
    return ir.LiteralStructType([kind] * count)


def constant(kind, value):
    return ir.Constant(kind, value)
