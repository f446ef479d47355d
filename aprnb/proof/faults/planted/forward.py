"""Faults of the forward pass: the decoder, its ops, the loss."""
from ..fault import fault

DECODER, ROPE_TABLE = "aprnb/model/decoder.py", "aprnb/model/rope_table.py"
COMPOSED = "aprnb/kernels/composed.py"  # products with something around them, of every room


def oracle(module):
    return f"aprnb/oracle/{module}.py"


def kernel(module):
    return f"aprnb/kernels/{module}.py"


SM90_FORWARD = kernel("sm90/attention_forward")

MODEL = [
    fault("qkv-biases-ignored", "q, k and v are computed without their biases",
          "reference",
          cpu=[(DECODER, 'return named("qkv.bias") if self.config.qkv_bias else None',
                "return None")],
          **dict.fromkeys(("simulator", "gpu"), [
              (COMPOSED, '"plain" if b is None else "bias", y, x, w, b, stream',
               '"plain", y, x, w, None, stream')])),
    fault("tied-head-random", "a tied model gets a head of its own, of random numbers",
          "reference, H4A",
          cpu=[(DECODER, '"lm_head.weight"]\n',
                '"lm_head.weight"]\n'
                "        if config.tied:\n"
                "            rng = __import__('numpy').random.default_rng(0)\n"
                "            self.head = (0.02 * rng.standard_normal(self.head.shape)\n"
                "                         ).astype(self.head.dtype)\n")]),
    fault("tied-head-copied", "the head of a tied model is a copy, which training leaves behind",
          "reference, H4A",
          cpu=[(DECODER, '"lm_head.weight"]\n',
                '"lm_head.weight"]\n'
                "        self.head = self.head.copy() if config.tied else self.head\n")]),
    fault("decoder-eps-fixed", "the norm before attention takes eps 1e-5 whatever the model says",
          "reference, H4C",
          cpu=[(DECODER, 'w("input_layernorm.weight"), self.config.rms_norm_eps)\n\n'
                "    def _attention", 'w("input_layernorm.weight"), 1e-5)\n\n'
                "    def _attention")]),
    fault("mlp-branch-zero", "what the MLP adds to the residual stream is zero",
          "reference, H4D",
          cpu=[(DECODER, 'a("act"), w("mlp.down_proj.weight"), None)\n',
                'a("act"), w("mlp.down_proj.weight"), None)\n'
                "            branch[...] = 0\n")]),
    fault("logits-left-over", "the loss is taken of what stands in the logits buffer",
          "reference, H1A",
          cpu=[(oracle("linear_cross_entropy"),
                "        linear_forward(z, x[rows], w, None)\n"
                "        _loss_and_softmax(losses[rows], z, targets[rows])\n\n",
                "        _loss_and_softmax(losses[rows], z, targets[rows])\n\n")],
          **dict.fromkeys(("simulator", "gpu"), [
              (COMPOSED, '        products.matmul("nt", "plain", z, x[rows], w, None, stream)\n'
               "        # without", "        # without")])),
    fault("rope-pairing-by-family", "Llama's pairs are neighbours, Qwen2's are halves",
          "reference 0.72.3",
          cpu=[(DECODER, "        ops.rope_forward(qkv, self.cos, self.sin, self.heads)\n",
                "        D = qkv.shape[3]\n"
                '        neighbours = self.config.family == "llama"\n'
                "        order = [*range(0, D, 2), *range(1, D, 2)]\n"
                "        order = order if neighbours else [*range(D)]\n"
                "        turned = qkv[..., order].copy()\n"
                "        ops.rope_forward(turned, self.cos, self.sin, self.heads)\n"
                "        qkv[..., order] = turned\n")]),
    fault("rope-keys-not-turned", "queries have positions and keys have none",
          "ours: the number of heads that are turned is that of the queries",
          cpu=[(DECODER, "self.heads = config.num_heads + config.num_kv_heads",
                "self.heads = config.num_heads")]),
]

RMSNORM = [
    fault("rmsnorm-eps-ignored", "rows are normalised without eps",
          "reference, H4C",
          cpu=[(oracle("rmsnorm"), "/ x.shape[1] + eps)", "/ x.shape[1])")],
          simulator=[(kernel("rmsnorm"),
                      "    r = float32(1.0) / float32(math.sqrt(sumsq / float32(C) + eps))",
                      "    r = float32(1.0) / float32(math.sqrt(sumsq / float32(C)))")],
          gpu=[(kernel("sm80/rmsnorm"), "math.sqrt(mean + eps)", "math.sqrt(mean)")]),
    fault("rmsnorm-eps-fixed", "eps is 1e-5 whatever the model says",
          "reference, H4C",
          cpu=[(oracle("rmsnorm"), "/ x.shape[1] + eps)", "/ x.shape[1] + 1e-5)")],
          simulator=[(kernel("rmsnorm"),
                      "    r = float32(1.0) / float32(math.sqrt(sumsq / float32(C) + eps))",
                      "    r = float32(1.0) / float32(math.sqrt(sumsq / float32(C)"
                      " + float32(1e-5)))")],
          gpu=[(kernel("sm80/rmsnorm"), "math.sqrt(mean + eps)",
                "math.sqrt(mean + float32(1e-5))")]),
    fault("rmsnorm-eps-on-the-root", "eps is added to the root, not to the mean square",
          "reference, H4C",
          cpu=[(oracle("rmsnorm"), 'np.sqrt(np.einsum("rc,rc->r", xw, xw) / x.shape[1] + eps)',
                '(np.sqrt(np.einsum("rc,rc->r", xw, xw) / x.shape[1]) + eps)')],
          simulator=[(kernel("rmsnorm"),
                      "    r = float32(1.0) / float32(math.sqrt(sumsq / float32(C) + eps))",
                      "    r = float32(1.0) / (float32(math.sqrt(sumsq / float32(C))) + eps)")],
          gpu=[(kernel("sm80/rmsnorm"), "float32(math.sqrt(mean + eps))",
                "(float32(math.sqrt(mean)) + eps)")]),
    fault("rmsnorm-mean-of-one-more", "the mean square is the sum over one column too many",
          "ours: an index off by one",
          cpu=[(oracle("rmsnorm"), "/ x.shape[1] + eps)", "/ (x.shape[1] + 1) + eps)")],
          simulator=[(kernel("rmsnorm"),
                      "    r = float32(1.0) / float32(math.sqrt(sumsq / float32(C) + eps))",
                      "    r = float32(1.0) / float32(math.sqrt(sumsq / float32(C + 1) + eps))")],
          gpu=[(kernel("sm80/rmsnorm"), "square_sum(v)) / float32(C)",
                "square_sum(v)) / float32(C + 1)")]),
    fault("rmsnorm-residual-dropped", "the branch is not added to the residual stream",
          "reference, H4D",
          cpu=[(oracle("rmsnorm"), "s[...] = wide(x) + wide(r)", "s[...] = wide(x)")],
          simulator=[(kernel("rmsnorm"), "narrow(s, widen(x[row, c]) + widen(r[row, c]))",
                      "narrow(s, widen(x[row, c]))")],
          gpu=[(kernel("sm80/rmsnorm"), "        return x + r\n", "        return x\n")]),
    fault("rmsnorm-reads-unrounded-sum", "the norm reads the sum before it is rounded and stored",
          "ours: fused kernels that keep the sum in registers",
          cpu=[(oracle("rmsnorm"), "    rmsnorm_forward(y, rstd, s, w, eps)",
                "    rmsnorm_forward(y, rstd, wide(x) + wide(r), w, eps)")],
          simulator=[(kernel("rmsnorm"), "v = widen(s[row, c])  # as stored: backward will see",
                      "v = widen(x[row, c]) + widen(r[row, c])  # backward will not see")]),
    fault("rmsnorm-statistics-in-bf16", "the mean square is kept in the type of the rows",
          "ours: statistics in bfloat16",
          cpu=[(oracle("rmsnorm"), 'np.einsum("rc,rc->r", xw, xw) / x.shape[1]',
                '(np.einsum("rc,rc->r", xw, xw) / x.shape[1]).astype(x.dtype).astype(xw.dtype)')],
          simulator=[(kernel("rmsnorm"), "    sumsq = block_sum(partial, sumsq)\n\n    r =",
                      "    sumsq = widen(x.dtype.type(block_sum(partial, sumsq)))\n\n    r =")]),
]

ROPE_PAIR = ("low, high = x[:, :, :heads, :half], x[:, :, :heads, half:]")
ROPE = [
    fault("rope-missing", "every position is turned like position 0, by nothing",
          "ALB-106",
          cpu=[(oracle("rope"), "cos, sin = cos[:, None, :], sin[:, None, :]",
                "cos, sin = cos[:1, None, :], sin[:1, None, :]")],
          simulator=[(kernel("rope"), "c, s = cos[t, k], sin[t, k] * sign",
                      "c, s = cos[0, k], sin[0, k] * sign")],
          gpu=[(kernel("sm80/rope"), "np.uint64(2 * t * D + 32 * cuda.threadIdx.x), sign)",
                "np.uint64(32 * cuda.threadIdx.x), sign)")]),
    fault("rope-adjacent-pairs", "neighbours are rotated with each other, not halves",
          "ALB-106; reference",
          cpu=[(oracle("rope"), ROPE_PAIR,
                "low, high = x[:, :, :heads, ::2], x[:, :, :heads, 1::2]")],
          simulator=[(kernel("rope"),
                      "widen(x[b, t, n, k]), widen(x[b, t, n, k + half])",
                      "widen(x[b, t, n, 2 * k]), widen(x[b, t, n, 2 * k + 1])"),
                     (kernel("rope"), "        x[b, t, n, k] = narrow",
                      "        x[b, t, n, 2 * k] = narrow"),
                     (kernel("rope"), "        x[b, t, n, k + half] = narrow",
                      "        x[b, t, n, 2 * k + 1] = narrow")],
          # neighbouring vectors of 8: what a thread of that kernel can hold
          gpu=[(kernel("sm80/rope"), "at = x + np.uint64(2 * ((row * N + n) * D) + 16 * cuda",
                "at = x + np.uint64(2 * ((row * N + n) * D) + 32 * cuda"),
               (kernel("sm80/rope"), "rotate(at, np.uint64(D), load(at, 0, 0, 1), "
                "load(at + np.uint64(D), 0, 0, 1), cos",
                "rotate(at, np.uint64(16), load(at, 0, 0, 1), "
                "load(at + np.uint64(16), 0, 0, 1), cos")]),
    fault("rope-theta-fixed", "the base is 10000 whatever the model says",
          "ALB-106",
          cpu=[(ROPE_TABLE, "f = config.rope_theta ** (", "f = 1e4 ** (")]),
    fault("rope-position-off-by-one", "positions are counted from 1",
          "ours: an index off by one",
          cpu=[(ROPE_TABLE, "np.arange(length, dtype=np.float64)",
                "np.arange(1, length + 1, dtype=np.float64)")]),
    fault("rope-scaling-ignored", "a Llama 3 checkpoint is run with unscaled frequencies",
          "ours: a field of config.json that nobody reads",
          cpu=[(ROPE_TABLE, "if config.rope_scaling:", "if False:")]),
    fault("rope-rotates-values", "values are turned too",
          "ours: all heads of the packed projection taken for queries and keys",
          cpu=[(oracle("rope"), ROPE_PAIR, "low, high = x[..., :half], x[..., half:]")],
          simulator=[(kernel("rope"), "heads * half, cuda.blockDim.x",
                      "x.shape[2] * half, cuda.blockDim.x")],
          gpu=[(kernel("sm80/rope"), "    tiles, tile = tile_of(heads,",
                "    heads = N\n    tiles, tile = tile_of(heads,")]),
]

ATTENTION = [
    fault("attention-mask-missing", "a token sees those that follow it",
          "ALB-125",
          cpu=[(oracle("attention"), "np.triu(np.ones((n, n), bool), 1)",
                "np.zeros((n, n), bool)")],
          simulator=[(kernel("attention"),
                      "if u0 + tx + SIDE * j <= t else float32(-math.inf)",
                      "if u0 + tx + SIDE * j < T else float32(-math.inf)")],
          gpu=[(SM90_FORWARD, "half = half_causal(half, d)", "half = half"),
               (SM90_FORWARD, "S = causal(S, d)", "S = S")]),
    fault("attention-mask-off-by-one", "a token sees the next one, which it is to predict",
          "ours: an index off by one",
          cpu=[(oracle("attention"), "np.triu(np.ones((n, n), bool), 1)",
                "np.triu(np.ones((n, n), bool), 2)")],
          simulator=[(kernel("attention"),
                      "if u0 + tx + SIDE * j <= t else float32(-math.inf)",
                      "if u0 + tx + SIDE * j <= t + 1 else float32(-math.inf)")],
          gpu=[(SM90_FORWARD, "d = row - 2 * (t & 3)", "d = row - 2 * (t & 3) + 1")]),
    fault("attention-wrong-key-head", "query head h reads key head h % KVH, not h // (H / KVH)",
          "common",
          cpu=[(oracle("attention"), ".reshape(B, T, KVH, heads // KVH, n).swapaxes(1, 2)\n",
                ".reshape(B, T, heads // KVH, KVH, n).transpose(0, 3, 1, 2, 4)\n"),
               (oracle("attention"), "heads // KVH, n).swapaxes(1, 2).reshape(shape)",
                "heads // KVH, n).transpose(0, 2, 3, 1, 4).reshape(shape)")],
          simulator=[(kernel("attention"),
                      "        key = H + h // (H // KVH)\n"
                      "        t0 = (tiles - 1 - from_last) * tile"
                      "  # the longest walks start first\n\n"
                      "        for i in range(per):\n"
                      "            top[i]",
                      "        key = H + h % KVH\n"
                      "        t0 = (tiles - 1 - from_last) * tile\n\n"
                      "        for i in range(per):\n"
                      "            top[i]")],
          gpu=[(SM90_FORWARD, f"{letter}_map, quotient(h, G) * D, u, b",
                f"{letter}_map, i32(h - quotient(h, quotient(H, G)) * quotient(H, G)) * D, u, b")
               for letter in "kv"]),
    fault("attention-scale-one-over-d", "scores are divided by d, not by its root",
          "ours: a formula misread",
          cpu=[(oracle("attention"), "(1 / np.sqrt(q.shape[2]))", "(1 / q.shape[2])"),
               (oracle("attention"), "(1 / np.sqrt(D))", "(1 / D)")],
          simulator=[(kernel("attention"), "o, lse, qkv, np.float32(D ** -0.5))",
                      "o, lse, qkv, np.float32(D ** -1.0))")],
          gpu=[(kernel("sm90/attention"), "np.float32(D ** -0.5 * LOG2_E))",
                "np.float32(D ** -1.0 * LOG2_E))")]),
    fault("attention-without-maximum", "exponentials are taken of scores as they are",
          "common",
          cpu=[(oracle("attention"), "top = s.max(axis=2, keepdims=True)",
                "top = np.zeros_like(s[:, :, :1])")],
          simulator=[(kernel("attention"), "top[i] = max(top[i], partial[per * ty + i, x])",
                      "top[i] = float32(0.0)")],
          gpu=[(SM90_FORWARD, "top = half_max(half, lowest)", "top = zero"),
               (SM90_FORWARD, "top = row_max(S, lowest)", "top = zero"),
               (SM90_FORWARD, "new = row_max(S, top)", "new = top")]),
    fault("attention-keys-of-the-first-sequence", "every sequence of a batch reads one's keys",
          "ours: a batch index forgotten",
          cpu=[(oracle("attention"), "k[groups], t)\n            top",
                "k[np.arange(groups.start, groups.stop) % KVH], t)\n            top")],
          simulator=[(kernel("attention"),
                      "        load(q, qkv, b, t0, h)\n"
                      "        for u0 in range(0, min(t0 + tile, T), tile):\n"
                      "            load(k, qkv, b, u0, key)",
                      "        load(q, qkv, b, t0, h)\n"
                      "        for u0 in range(0, min(t0 + tile, T), tile):\n"
                      "            load(k, qkv, 0, u0, key)")],
          gpu=[(SM90_FORWARD, "k_map, quotient(h, G) * D, u, b,",
                "k_map, quotient(h, G) * D, u, i32(0),")]),
]

ROWS = [
    fault("embedding-row-before", "an id fetches the row before its own",
          "ours: an index off by one",
          cpu=[(oracle("embedding"), "y[...] = table[ids]",
                "y[...] = table[np.maximum(ids - 1, 0)]")],
          simulator=[(kernel("embedding"), "        y[row, c] = table[token, c]",
                      "        y[row, c] = table[max(token - 1, 0), c]")],
          gpu=[(kernel("sm80/embedding"), "(load_i32(ids + np.uint64(4 * row)),",
                "(max(load_i32(ids + np.uint64(4 * row)) - 1, 0),")]),
    fault("swiglu-halves-exchanged", "the gate is taken for up and up for the gate",
          "ours: the order of the packed projection",
          cpu=[(oracle("swiglu"), "    gate, up = wide(gu[:, :F]), wide(gu[:, F:])\n",
                "    up, gate = wide(gu[:, :F]), wide(gu[:, F:])\n"),
               (oracle("swiglu"), "    gate, up, dyw = wide(gu[:, :F]), wide(gu[:, F:]),",
                "    up, gate, dyw = wide(gu[:, :F]), wide(gu[:, F:]),"),
               (oracle("swiglu"), "dgu[:, F:] = dyw * silu", "dgu[:, :F] = dyw * silu"),
               (oracle("swiglu"), "dgu[:, :F] = dyw * up * slope",
                "dgu[:, F:] = dyw * up * slope")],
          simulator=[(kernel("swiglu"), "        gate = widen(gu[row, f])\n",
                      "        gate = widen(gu[row, F + f])\n"),
                     (kernel("swiglu"), "sigmoid(gate) * widen(gu[row, F + f]))",
                      "sigmoid(gate) * widen(gu[row, f]))")],
          gpu=[(kernel("ptx/swiglu"), "gate = _halves(builder, bfloat16_pair(builder, v[i]",
                "up = _halves(builder, bfloat16_pair(builder, v[i]"),
               (kernel("ptx/swiglu"), "up = _halves(builder, bfloat16_pair(builder, v[n",
                "gate = _halves(builder, bfloat16_pair(builder, v[n")]),
    fault("linear-square-weight-transposed", "a square weight is taken as (in, out)",
          "reference, H4B",
          cpu=[(oracle("linear"), "    if b is None:\n        product(y, x, w.T, False)",
                "    if b is None:\n"
                "        product(y, x, w if len(w) == w.shape[1] else w.T, False)")],
          **dict.fromkeys(("simulator", "gpu"), [
              (COMPOSED, 'products.matmul("nt", "plain" if b is None else "bias", y, x, w, b,',
               'products.matmul("nn" if b is None and N == K else "nt",\n'
               '                    "plain" if b is None else "bias", y, x, w, b,')])),
    fault("linear-rows-and-columns-mixed", "the bytes of a weight are read as (in, out)",
          "reference, H4B",
          cpu=[(oracle("linear"), "    if b is None:\n        product(y",
                "    w = w.reshape(w.shape[::-1]).T\n    if b is None:\n        product(y")],
          **dict.fromkeys(("simulator", "gpu"), [
              (COMPOSED, '    products.matmul("nt", "plain" if b is None else "bias", y, x, w, b,',
               "    if b is None:\n"
               '        products.matmul("nn", "plain", y, x, w.reshape((K, N)), None, stream)\n'
               "        return\n"
               '    products.matmul("nt", "plain" if b is None else "bias", y, x, w, b,')])),
]

LOSS = [
    fault("loss-without-maximum", "exponentials are taken of logits as they are",
          "common",
          cpu=[(oracle("linear_cross_entropy"), "top = zw.max(axis=1)",
                "top = np.zeros_like(zw[:, 0])")],
          simulator=[(kernel("linear_cross_entropy"), "top = block_max(partial, top)",
                      "top = block_max(partial, top) * float32(0.0)")],
          gpu=[(kernel("sm80/cross_entropy"), "top = maximum(m, largest(x) * LOG2E)",
                "top = float32(0.0)")]),
    fault("loss-without-the-last-logit", "the sum of exponentials ends one logit early",
          "ours: an index off by one",
          cpu=[(oracle("linear_cross_entropy"), "total = p.sum(axis=1)",
                "total = p[:, :-1].sum(axis=1)")],
          simulator=[(kernel("linear_cross_entropy"),
                      "range(cuda.threadIdx.x, V, cuda.blockDim.x):\n        total +=",
                      "range(cuda.threadIdx.x, V - 1, cuda.blockDim.x):\n        total +=")],
          gpu=[(kernel("sm80/cross_entropy"), "    if cuda.threadIdx.x < V & 7:",
                "    if cuda.threadIdx.x < (V & 7) - 1:")]),
    fault("loss-target-read-after-overwrite",
          "the target's logit is read when its gradient stands in its place",
          "ours: a missing copy in an op in place",
          cpu=[(oracle("linear_cross_entropy"), "top + np.log(total) - hit)",
                "top + np.log(total) - zw[rows, np.maximum(targets, 0)])")],
          simulator=[(kernel("linear_cross_entropy"),
                      "        if target >= 0:\n"
                      "            losses[row] = top + float32(math.log(total)) - "
                      "widen(logits[row, target])\n    cuda", "    cuda"),
                     (kernel("linear_cross_entropy"),
                      "narrow(logits, p * scale[0] if target >= 0 else float32(0.0))\n",
                      "narrow(logits, p * scale[0] if target >= 0 else float32(0.0))\n"
                      "    cuda.syncthreads()\n"
                      "    if cuda.threadIdx.x == 0 and target >= 0:\n"
                      "        losses[row] = top + float32(math.log(total)) - "
                      "widen(logits[row, target])\n")],
          gpu=[(kernel("sm80/cross_entropy"),
                "        finish(row, V, target, loss, shift, factor)\n\n\n",
                "        finish(row, V, target, loss, shift, factor)\n"
                "        cuda.syncthreads()\n"
                "        if t == 0:\n"
                "            logit = load_bf16(row + np.uint64(2 * max(target, 0)))\n"
                "            store_f32(losses + np.uint64(4 * index),\n"
                "                      loss_of(target, logit, m, s))\n\n\n")]),
    fault("loss-of-ignored-targets", "a row without a target is scored as if its target were id 0",
          "ours: ignore_index lost on the way to the kernel",
          cpu=[(oracle("linear_cross_entropy"), "np.where(targets < 0, 0, top + np.log(total)"
                " - hit)", "top + np.log(total) - hit"),
               (oracle("linear_cross_entropy"), "    rows = np.flatnonzero(targets >= 0)\n"
                "    z[rows, targets[rows]] -=",
                "    rows = np.arange(len(z))\n    z[rows, np.maximum(targets, 0)] -="),
               (oracle("linear_cross_entropy"), "    z[targets < 0] = 0\n", "")],
          simulator=[(kernel("linear_cross_entropy"), "target = targets[row]",
                      "target = max(targets[row], 0)")],
          gpu=[(kernel("sm80/cross_entropy"), f"{before}\n{indent}target = load_i32("
                "targets + np.uint64(4 * index))", f"{before}\n{indent}target = max(load_i32("
                "targets + np.uint64(4 * index)), 0)")
               for before, indent in (("* pitch)", "    "), ("while index < R:", "        "))]),
]

FAULTS = MODEL + RMSNORM + ROPE + ATTENTION + ROWS + LOSS
