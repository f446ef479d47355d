"""16 bytes at a time: loads and stores of four floats or eight bfloat16, as tuples of floats.

Addresses are global (u64) and multiples of 16. The streaming forms tell the caches that the line
will not be read again soon.
"""
from .emit import (F32, I32, VOID, constant, f32, intrinsic, none, pack, signature, statement,
                   structure, types, u32, u64, unpack)
from .tiles import bfloat16_pair, high_half, low_half, multiply_add

FOUR, EIGHT = types.UniTuple(f32, 4), types.UniTuple(f32, 8)


def _words(builder, address, hint):
    out = statement(builder, structure(I32, 4), [address],
                    f"ld.global{hint}.v4.b32 {{$0, $1, $2, $3}}, [$4];", "=r,=r,=r,=r,l,~{memory}")
    return unpack(builder, out, 4)


def _store_words(builder, address, words, hint, letter="r"):
    statement(builder, VOID, [address, *words], f"st.global{hint}.v4.b32 [$0], {{$1, $2, $3, $4}};",
              "l," + ",".join(letter * 4) + ",~{memory}")


def make_load(hint=""):
    """(load_bf16x8, load_f32x4) with a cache hint: "", ".cs" (streaming), ".nc.L1::no_allocate"."""
    @intrinsic
    def load_bf16x8(typingctx, address):
        """Eight bfloat16, widened."""
        def generate(context, builder, sig, args):
            return pack(builder, [half(builder, w) for w in _words(builder, args[0], hint)
                                  for half in (low_half, high_half)])
        return signature(EIGHT, u64), generate

    @intrinsic
    def load_f32x4(typingctx, address):
        def generate(context, builder, sig, args):
            return pack(builder, [builder.bitcast(w, F32)
                                  for w in _words(builder, args[0], hint)])
        return signature(FOUR, u64), generate
    return load_bf16x8, load_f32x4


def make_store(hint=""):
    """(store_bf16x8, store_f32x4) with a cache hint: "" or ".cs"."""
    @intrinsic
    def store_bf16x8(typingctx, address, values):
        """Eight floats, rounded to nearest even."""
        def generate(context, builder, sig, args):
            v = unpack(builder, args[1], 8)
            words = [bfloat16_pair(builder, v[2 * i], v[2 * i + 1]) for i in range(4)]
            _store_words(builder, args[0], words, hint)
            return context.get_dummy_value()
        return signature(none, u64, EIGHT), generate

    @intrinsic
    def store_f32x4(typingctx, address, values):
        def generate(context, builder, sig, args):
            _store_words(builder, args[0], unpack(builder, args[1], 4), hint, "f")
            return context.get_dummy_value()
        return signature(none, u64, FOUR), generate
    return store_bf16x8, store_f32x4


def make_store_bf16x4(hint=""):
    """store_bf16x4: four floats, rounded to nearest even, to 8 bytes beside 16 of float32."""
    @intrinsic
    def store_bf16x4(typingctx, address, values):
        def generate(context, builder, sig, args):
            v = unpack(builder, args[1], 4)
            words = [bfloat16_pair(builder, v[2 * i], v[2 * i + 1]) for i in range(2)]
            statement(builder, VOID, [args[0], *words],
                      f"st.global{hint}.v2.b32 [$0], {{$1, $2}};", "l,r,r,~{memory}")
            return context.get_dummy_value()
        return signature(none, u64, FOUR), generate
    return store_bf16x4


load_bf16x8, load_f32x4 = make_load()
store_bf16x8, store_f32x4 = make_store()


@intrinsic
def load_bf16x4(typingctx, address):
    """Four bfloat16 from 8 bytes, widened."""
    def generate(context, builder, sig, args):
        out = statement(builder, structure(I32, 2), [args[0]],
                        "ld.global.v2.b32 {$0, $1}, [$2];", "=r,=r,l,~{memory}")
        return pack(builder, [half(builder, w) for w in unpack(builder, out, 2)
                              for half in (low_half, high_half)])
    return signature(FOUR, u64), generate


@intrinsic
def load_shared_f32x4(typingctx, address):
    """Four floats from shared memory (u32)."""
    def generate(context, builder, sig, args):
        out = statement(builder, structure(F32, 4), [args[0]],
                        "ld.shared.v4.f32 {$0, $1, $2, $3}, [$4];", "=f,=f,=f,=f,r,~{memory}")
        return pack(builder, unpack(builder, out, 4))
    return signature(FOUR, u32), generate


def _make_dot(space, kind, letter):
    text = f"ld.{space}.v4.b32 {{$0, $1, $2, $3}}, [$4];"

    @intrinsic
    def dot(typingctx, a, b):
        def generate(context, builder, sig, args):
            words = [unpack(builder, statement(builder, structure(I32, 4), [address], text,
                                               f"=r,=r,=r,=r,{letter},~{{memory}}"), 4)
                     for address in args]
            total = constant(F32, 0.0)
            for x, y in zip(*words):
                for half in (low_half, high_half):
                    total = multiply_add(builder, half(builder, x), half(builder, y), total)
            return total
        return signature(f32, kind, kind), generate
    return dot


# dot product of eight bfloat16 at each of two addresses, in global and in shared memory
dot_bf16x8, dot_shared_bf16x8 = _make_dot("global", u64, "l"), _make_dot("shared", u32, "r")
