"""Which attention ran: the word for it, from the names of the kernels that a GPU was given."""

FUSED = (  # word, what only its kernels are called; the first that fits a name counts
    ("cuDNN", ("cudnn",)),
    ("FA4", ("flashattentionforward", "flashattentionbackward", "flash_attncute")),
    ("flash", ("flash_fwd", "flash_bwd", "flash::")),
    ("mem_efficient", ("fmha_cutlass", "mem_eff", "attentionkernel", "attentionbackwardkernel")),
)
OF_MATH, NOT_OF_MATH = "softmax", "log_softmax"  # the loss has the second one


def attention_of(names):
    """(word, the kernels of it), such as ("cuDNN", ["cudnn_generated_fort_native_sdpa_..."]).

    Words of several implementations are joined by "+". "math" is attention out of products and a
    softmax, "unknown" none that this file knows.
    """
    found = {}
    for name in names:
        word = _word(name.lower())
        if word:
            found.setdefault(word, []).append(name)
    if not found:
        plain = [n for n in names if OF_MATH in n.lower() and NOT_OF_MATH not in n.lower()]
        found = {"math": plain} if plain else {"unknown": []}
    return "+".join(found), [name for own in found.values() for name in own]


def _word(name):
    return next((word for word, marks in FUSED if any(mark in name for mark in marks)), None)
