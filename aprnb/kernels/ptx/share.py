"""What one thread holds of a row or a column: some 16-byte vectors, and arithmetic on all of them.

A vector has four words, or two where bfloat16 stands beside float32: 8 bytes for as many elements.

A share stays in registers, as one tuple of 32-bit words; loads of all its vectors are in flight
together. Vector j lies j * stride bytes behind the address; it exists where j * step < left, else
it reads as zero and is not written.

    each(count, "p s -> p")   makes an operation on `count` elements from a formula for one of them

Kinds of operands and results:
    p   packed: words of two bfloat16, widened on the way in, rounded to nearest even on the way out
    q   the same, widened by another instruction: for the second use of what stays packed between
        two uses; of equal instructions the compiler keeps the results, in twice the registers
    w   words of one float32, as loaded and stored
    f   floats
    s   one float for all elements; as the result: the sum over the elements
"""
from .emit import (F32, I32, I64, VOID, constant, f32, i32, intrinsic, none, pack, signature,
                   statement, structure, types, u32, u64, unpack, with_parameters)
from .tiles import add, bfloat16_pair, exp2, high_half, low_half, maximum, multiply_add, reduce

STREAMED = ".L1::no_allocate"  # cache hint of what one thread alone reads, once


def make_load(vectors, hint="", fill=0, words=4):
    """load(address, stride, step, left) -> the words of all vectors, from global memory.

    fill: what the words of vectors that do not exist read as, in place of zero.
    """
    found_type, targets = types.UniTuple(u32, words * vectors), _operands(words)
    text = (f"{{ .reg .pred p; setp.lt.s32 p, ${words + 1}, ${words + 2}; "
            + "".join(f"mov.b32 {target}, {fill}; " for target in targets)
            + f"@p ld.global{hint}.v{words}.b32 {{{', '.join(targets)}}}, [${words}]; }}")

    @intrinsic
    def load(typingctx, address, stride, step, left):
        def generate(context, builder, sig, args):
            found = []
            for at, place in _places(builder, vectors, *args[:3], I64):
                found += unpack(builder, statement(
                    builder, structure(I32, words), [at, place, args[3]], text,
                    "=&r," * words + "l,r,r,~{memory}"), words)
            return pack(builder, found)
        return signature(found_type, u64, u64, i32, i32), generate
    return load


def make_store(vectors, hint="", words=4):
    """store(address, stride, step, left, words) to global memory."""
    sources = ", ".join(_operands(words, 1))
    text = (f"{{ .reg .pred p; setp.lt.s32 p, ${words + 1}, ${words + 2}; "
            f"@p st.global{hint}.v{words}.b32 [$0], {{{sources}}}; }}")
    share = types.UniTuple(u32, words * vectors)

    @intrinsic
    def store(typingctx, address, stride, step, left, values):
        def generate(context, builder, sig, args):
            values = unpack(builder, args[4], words * vectors)
            for j, (at, place) in enumerate(_places(builder, vectors, *args[:3], I64)):
                statement(builder, VOID, [at, *values[words * j:words * (j + 1)], place, args[3]],
                          text, "l," + "r," * words + "r,r,~{memory}")
            return context.get_dummy_value()
        return signature(none, u64, u64, i32, i32, share), generate
    return store


def make_put(vectors, width):
    """put(address, stride, step, left, floats) to shared memory: vectors of `width` floats."""
    text = ("{{ .reg .pred p; setp.lt.s32 p, $5, $6; "
            "@p st.shared.v4.f32 [$0+{at}], {{$1, $2, $3, $4}}; }}")

    @intrinsic
    def put(typingctx, address, stride, step, left, floats):
        def generate(context, builder, sig, args):
            floats = unpack(builder, args[4], vectors * width)
            for j, (at, place) in enumerate(_places(builder, vectors, *args[:3], I32)):
                for k in range(0, width, 4):
                    four = floats[j * width + k:j * width + k + 4]
                    statement(builder, VOID, [at, *four, place, args[3]], text.format(at=4 * k),
                              "r,f,f,f,f,r,r,~{memory}")
            return context.get_dummy_value()
        return signature(none, u32, u32, i32, i32, types.UniTuple(f32, vectors * width)), generate
    return put


def make_get(vectors, apart, words=4):
    """get(address) -> the words of all vectors from shared memory, `apart` bytes from another."""
    text = f"ld.shared.v{words}.b32 {{{', '.join(_operands(words))}}}"

    @intrinsic
    def get(typingctx, address):
        def generate(context, builder, sig, args):
            found = []
            for j in range(vectors):
                found += unpack(builder, statement(
                    builder, structure(I32, words), [args[0]], f"{text}, [${words}+{j * apart}];",
                    "=r," * words + "r,~{memory}"), words)
            return pack(builder, found)
        return signature(types.UniTuple(u32, words * vectors), u32), generate
    return get


def make_fold(vectors, kind):
    """fold(total, words): total + vector 0 + vector 1 ..., element by element; kind "p" or "w"."""
    width = 8 if kind == "p" else 4
    total_type = types.UniTuple(f32, width)

    @intrinsic
    def fold(typingctx, total, words):
        def generate(context, builder, sig, args):
            total = unpack(builder, args[0], width)
            values = _read(kind, builder, args[1], vectors * width)
            for j in range(vectors):
                total = [builder.fadd(t, values[j * width + k]) for k, t in enumerate(total)]
            return pack(builder, total)
        return signature(total_type, total_type, types.UniTuple(u32, 4 * vectors)), generate
    return fold


def make_largest(vectors):
    """largest(words) -> the largest of their bfloat16, as a float; NaN only if all are."""
    count = 4 * vectors

    def larger(builder, x, y):
        return statement(builder, I32, [x, y], "max.bf16x2 $0, $1, $2;", "=r,r,r", effect=False)

    @intrinsic
    def largest(typingctx, words):
        def generate(context, builder, sig, args):
            two = reduce(builder, unpack(builder, args[0], count), larger)
            return maximum(builder, low_half(builder, two), high_half(builder, two))
        return signature(f32, types.UniTuple(u32, count)), generate
    return largest


def make_zeros(count):
    """zeros() -> `count` floats."""
    @intrinsic
    def zeros(typingctx):
        def generate(context, builder, sig, args):
            return pack(builder, [constant(F32, 0.0)] * count)
        return signature(types.UniTuple(f32, count)), generate
    return zeros


class Element:
    """One element of a share while code is generated: + - * emit float32 instructions."""

    def __init__(self, builder, value):
        self.builder, self.value = builder, value

    def _emit(self, name, *operands):
        values = [x.value if isinstance(x, Element) else constant(F32, x) for x in operands]
        return Element(self.builder, getattr(self.builder, name)(*values))

    def __add__(self, other):
        return self._emit("fadd", self, other)

    def __sub__(self, other):
        return self._emit("fsub", self, other)

    def __mul__(self, other):
        return self._emit("fmul", self, other)

    def __rsub__(self, other):
        return self._emit("fsub", other, self)

    __radd__, __rmul__ = __add__, __mul__

    def fma(self, factor, summand):
        """self * factor + summand, rounded once. Elsewhere the compiler chooses what it fuses."""
        return Element(self.builder, multiply_add(self.builder, self.value, factor.value,
                                                  summand.value))

    def exp2(self):
        return Element(self.builder, exp2(self.builder, self.value))

    def reciprocal(self):
        return Element(self.builder, statement(self.builder, F32, [self.value],
                                               "rcp.approx.ftz.f32 $0, $1;", "=f,f", effect=False))


def each(count, kinds):
    """Decorator: a formula on Elements, applied to each of `count`; it may have several results.

    @each(8, "p s -> p") on `def scaled(x, factor)` makes scaled(words, float) -> words.
    """
    inputs, outputs = (side.split() for side in kinds.split("->"))
    result_types = [_type(kind, count) for kind in outputs]
    result = result_types[0] if len(outputs) == 1 else types.Tuple(result_types)

    def decorate(formula):
        def generate(context, builder, sig, args):
            operands = [_read(kind, builder, arg, count) for kind, arg in zip(inputs, args)]
            found = [formula(*(Element(builder, x) for x in element)) for element in zip(*operands)]
            found = [[x] for x in found] if len(outputs) == 1 else found
            results = [_write(kind, builder, [x.value for x in column])
                       for kind, column in zip(outputs, zip(*found))]
            return (results[0] if len(outputs) == 1
                    else context.make_tuple(builder, result, results))

        def body(*_):
            return signature(result, *(_type(kind, count) for kind in inputs)), generate
        return intrinsic(with_parameters(len(inputs), body))
    return decorate


def _operands(count, first=0):
    return [f"${i}" for i in range(first, first + count)]


def _places(builder, vectors, address, stride, step, kind):
    """(address, place to compare with `left`) of every vector."""
    for j in range(vectors):
        yield (builder.add(address, builder.mul(stride, constant(kind, j))),
               builder.mul(step, constant(I32, j)))


def _type(kind, count):
    packed = types.UniTuple(u32, count // 2)
    return {"p": packed, "q": packed, "w": types.UniTuple(u32, count),
            "f": types.UniTuple(f32, count), "s": f32}[kind]


def _read(kind, builder, operand, count):
    """The elements of an operand, as floats."""
    if kind == "s":
        return [operand] * count
    if kind in "pq":
        halves = (low_half, high_half) if kind == "p" else (_low_bytes, _high_bytes)
        return [half(builder, word) for word in unpack(builder, operand, count // 2)
                for half in halves]
    values = unpack(builder, operand, count)
    return [builder.bitcast(v, F32) for v in values] if kind == "w" else values


def _low_bytes(builder, word):
    return builder.bitcast(_permuted(builder, word, "0x1044"), F32)


def _high_bytes(builder, word):
    return builder.bitcast(_permuted(builder, word, "0x3244"), F32)


def _permuted(builder, word, selector):
    return statement(builder, I32, [word], f"prmt.b32 $0, $1, 0, {selector};", "=r,r", effect=False)


def _write(kind, builder, values):
    if kind == "s":
        return reduce(builder, values, add)
    if kind == "p":
        return pack(builder, [bfloat16_pair(builder, *values[i:i + 2])
                              for i in range(0, len(values), 2)])
    return pack(builder, [builder.bitcast(v, I32) for v in values] if kind == "w" else values)
