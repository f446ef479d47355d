"""Faults of gradients and of AdamW, and of kernels alone: rounding, indexing, tiles, barriers."""
from ..fault import fault
from .forward import COMPOSED, DECODER, kernel, oracle

GRADIENTS = [
    fault("rmsnorm-gradient-without-projection",
          "the gradient along the row itself, which the norm removes, is passed on",
          "ours: the derivative of the root mean square forgotten",
          cpu=[(oracle("rmsnorm"), "    g -= xhat\n", "")],
          simulator=[(kernel("rmsnorm"), "v = r * (g - widen(x[row, c]) * r * projection)",
                      "v = r * g")],
          gpu=[(kernel("sm80/rmsnorm"), "rstd * (dy * w - v * shift)", "rstd * (dy * w)")]),
    fault("rmsnorm-residual-gradient-dropped",
          "the residual stream's own gradient is not added to the norm's",
          "known faults 19",
          cpu=[(oracle("rmsnorm"), "dx[...] = wide(ds) + _input", "dx[...] = _input")],
          simulator=[(kernel("rmsnorm"), "v += widen(ds[row, c])", "v += float32(0.0)")],
          gpu=[(kernel("sm80/rmsnorm"), "return ds + rstd * (", "return rstd * (")]),
    fault("rmsnorm-dw-overwritten", "a second micro-batch overwrites the norm's weight gradient",
          "ours: accumulation lost",
          cpu=[(oracle("rmsnorm"), 'np.einsum("rc,rc->c", dyw, xhat), accumulate)',
                'np.einsum("rc,rc->c", dyw, xhat), False)')],
          simulator=[(kernel("rmsnorm"), "total += dw[c]", "total += float32(0.0)")],
          gpu=[(kernel("sm80/rmsnorm"), "add_parts(dw, parts, blocks, C, accumulate, stream)",
                "add_parts(dw, parts, blocks, C, False, stream)")]),
    fault("linear-dw-overwritten", "a second micro-batch overwrites the weight gradient",
          "ours: accumulation lost",
          cpu=[(oracle("linear"), "product(dw, dy.T, x, accumulate)",
                "product(dw, dy.T, x, False)")],
          **dict.fromkeys(("simulator", "gpu"), [
              (COMPOSED, '"add" if accumulate else "plain", dw, dy, x', '"plain", dw, dy, x')])),
    fault("head-dw-of-the-last-chunk", "each chunk of logits overwrites the head's gradient",
          "ours: accumulation lost",
          cpu=[(oracle("linear_cross_entropy"), "accumulate or rows.start > 0)", "accumulate)")],
          **dict.fromkeys(("simulator", "gpu"), [
              (COMPOSED, '"add" if accumulate or rows.start else', '"add" if accumulate else')])),
    fault("rope-gradient-turned-forward", "the gradient is turned on, not back",
          "ours: a sign",
          cpu=[(oracle("rope"), "_rotate(dx, cos, -sin, heads)", "_rotate(dx, cos, sin, heads)")],
          **{side: [(kernel(file), 'rope_backward", dx, cos, sin, heads, -1, stream)',
                     'rope_backward", dx, cos, sin, heads, 1, stream)')]
             for side, file in (("simulator", "rope"), ("gpu", "sm80/rope"))}),
    fault("bias-gradient-missing", "the gradient of the q, k, v biases is never written",
          "ours: an op of the backward pass forgotten",
          cpu=[(oracle("rope"), "    column_sum(db, dx.reshape(-1, db.shape[0]), accumulate)\n",
                "")],
          simulator=[(kernel("rope"), "    column_sum(db, dx.reshape((B * T, N * D)), "
                      "accumulate, stream)\n", "")],
          gpu=[(kernel("sm80/rope"), "    add_parts(db, parts, count, N * D, accumulate, "
                "stream)\n", "")]),
    fault("bias-gradient-before-turning-back",
          "the bias gradient sums what has not been turned back yet",
          "ours: two ops in the wrong order",
          cpu=[(oracle("rope"), "    rope_backward(dx, cos, sin, heads)\n"
                "    column_sum(db, dx.reshape(-1, db.shape[0]), accumulate)\n",
                "    column_sum(db, dx.reshape(-1, db.shape[0]), accumulate)\n"
                "    rope_backward(dx, cos, sin, heads)\n")],
          simulator=[(kernel("rope"), "    rope_backward(dx, cos, sin, heads, stream)\n"
                      "    column_sum(db, dx.reshape((B * T, N * D)), accumulate, stream)\n",
                      "    column_sum(db, dx.reshape((B * T, N * D)), accumulate, stream)\n"
                      "    rope_backward(dx, cos, sin, heads, stream)\n")],
          gpu=[(kernel("sm80/rope"), "            low, high = rotate(at, half,",
                "            _, _ = rotate(at, half,")]),
    fault("attention-gradient-without-delta", "softmax is taken for the exponential alone",
          "ours: the derivative of the denominator forgotten",
          cpu=[(oracle("attention"), "            ds -= delta_g[groups, rows]\n", "")],
          simulator=[(kernel("attention"),
                      "slope = p * (dp[i, j] - delta[b, h, t])\n                    ds[tx",
                      "slope = p * dp[i, j]\n                    ds[tx")],
          gpu=[(kernel("ptx/tiles"), "builder.fsub(dp[i], delta[_row(i)])", "dp[i]")]),
    fault("attention-key-gradient-of-one-head",
          "of the query heads that share a key head, the first alone is summed",
          "ours: grouped heads forgotten in the backward pass",
          simulator=[(kernel("attention"),
                      "range(kvh * (H // KVH), (kvh + 1) * (H // KVH))",
                      "range(kvh * (H // KVH), kvh * (H // KVH) + 1)")],
          gpu=[(kernel("sm90/attention_key_gradient"),
                "part, first, i32(heads + (part < more))", "part, first, i32(1)")]),
    fault("embedding-repeated-id-counted-once",
          "of several rows with one id, one alone reaches the table's gradient",
          "ours: an indexed sum that writes once",
          cpu=[(oracle("embedding"),
                "dtable[used] += np.add.reduceat(wide(dy)[order], start, axis=0)",
                "dtable[ids] += wide(dy)")],
          simulator=[(kernel("embedding"), "for later in range(row, R):",
                      "for later in range(row, row + 1):")],
          gpu=[(kernel("sm80/embedding"), "rows, c = np.int32(min(left, CHUNK)),",
                "rows, c = np.int32(1),")]),
    fault("tied-gradient-overwritten", "the embedding's gradient takes the place of the head's",
          "ours: accumulation lost",
          cpu=[(DECODER, "accumulate or tied)", "accumulate)")]),
    fault("recomputation-left-out", "backward reads another layer's activations",
          "ours: buffers that layers share, read without being computed anew",
          cpu=[(DECODER, "        if layer == self.config.num_layers - 1:\n            return\n",
                "        return\n")]),
]

ADAMW = [
    fault("adamw-eps-under-the-root", "eps is added to the mean square of the gradient",
          "ours: a formula misread",
          cpu=[(oracle("adamw"), "    step = np.sqrt(v / correction2)\n    step += kind(eps)\n",
                "    step = np.sqrt(v / correction2 + kind(eps))\n")],
          simulator=[(kernel("adamw"), "(float32(math.sqrt(square / correction2[0])) + eps)",
                      "float32(math.sqrt(square / correction2[0] + eps))")],
          gpu=[(kernel("sm80/adamw"), "rcp(sqrt(square * uncorrected) + eps)",
                "rcp(sqrt(square * uncorrected + eps))")]),
    fault("adamw-moments-exchanged", "each moment is stored in the other's place",
          "ours: two arrays in the wrong order",
          cpu=[(oracle("adamw"), "_update(w[cut], m[cut], v[cut],",
                "_update(w[cut], v[cut], m[cut],")],
          simulator=[(kernel("adamw"), "        m[i] = mean\n        v[i] = square\n",
                      "        m[i] = square\n        v[i] = mean\n")],
          gpu=[(kernel("sm80/adamw"), "store(m + at, (m0", "store(v + at, (m0"),
               (kernel("sm80/adamw"), "store(v + at, (v0", "store(m + at, (v0")]),
    fault("adamw-decay-coupled", "the decay is added to the gradient and divided by its size",
          "ours: Adam with L2 in place of AdamW",
          cpu=[(oracle("adamw"), "    w[:decayed] *= 1 - lr * kind(decay)\n", ""),
               (oracle("adamw"), "    m *= kind(beta1)\n",
                "    g[:decayed] += kind(decay) * w[:decayed]\n    m *= kind(beta1)\n")],
          simulator=[(kernel("adamw"), "weight *= shrink", "weight *= float32(1.0)"),
                     (kernel("adamw"), "gradient = g[i] * clip[0]",
                      "gradient = g[i] * clip[0] + (decay * w[i] if i < decayed else"
                      " float32(0.0))")],
          gpu=[(kernel("sm80/adamw"), "factor = shrink if i < decayed else float32(1.0)",
                "factor, more = float32(1.0), decay if i < decayed else float32(0.0)\n"
                "        d = (d[0] + more * a[0], d[1] + more * a[1], d[2] + more * a[2],\n"
                "             d[3] + more * a[3])")]),
    fault("adamw-decay-after-the-step", "the decay takes its share of the step too",
          "ours: two lines in the wrong order",
          cpu=[(oracle("adamw"), "    w[:decayed] *= 1 - lr * kind(decay)\n", ""),
               (oracle("adamw"), "    w -= step\n",
                "    w -= step\n    w[:decayed] *= 1 - lr * kind(decay)\n")],
          simulator=[(kernel("adamw"), "weight *= shrink", "weight *= float32(1.0)"),
                     (kernel("adamw"), "        w[i] = weight\n",
                      "        weight *= shrink if i < decayed else float32(1.0)\n"
                      "        w[i] = weight\n")]),
    fault("adamw-uncorrected", "the moments are used without their bias corrections",
          "ours: early steps of a tenth, and of a twentieth under the root",
          cpu=[(oracle("adamw"), "np.sqrt(v / correction2)", "np.sqrt(v)"),
               (oracle("adamw"), "step *= lr / correction1", "step *= lr")],
          simulator=[(kernel("adamw"), "rate = lr[0] / correction1[0]", "rate = lr[0]"),
                     (kernel("adamw"), "math.sqrt(square / correction2[0])",
                      "math.sqrt(square)")],
          gpu=[(kernel("sm80/adamw"),
                "(rate / load_f32(correction1), float32(1.0) / load_f32(correction2),",
                "(rate, float32(1.0),")]),
]

NUMBERS = [
    fault("bf16-truncated", "bfloat16 is cut off, not rounded to nearest even",
          "ours: the upper half of the bits",
          cpu=[(oracle("convert"), "    y[...] = x.astype(y.dtype)",
                "    if y.itemsize < x.itemsize:\n"
                "        y.view('u2')[...] = x.view('u4') >> 16\n"
                "    else:\n"
                "        y[...] = x.astype(y.dtype)")],
          simulator=[(kernel("cast"), "    def narrow(y, v):\n        return v\n",
                      "    def narrow(y, v):\n"
                      "        cut = (float32(v).view('u4') & 0xFFFF0000).view('f4')\n"
                      "        return v if y.dtype == float32 else cut\n")],
          gpu=[(kernel("ptx/tiles"), "cvt.rn.bf16x2.f32", "cvt.rz.bf16x2.f32")]),
    fault("clip-passes-nan", "a gradient norm that is not a number counts as no clipping",
          "ours: a comparison that NaN fails",
          cpu=[(oracle("reduce"), "np.minimum(1, max_norm", "np.fmin(1, max_norm")],
          **dict.fromkeys(("simulator", "gpu"), [
              (kernel("reduce"),
               "and not max_norm / (length + float32(1e-6)) > float32(1.0):",
               "and max_norm / (length + float32(1e-6)) <= float32(1.0):")])),
]

TILES = [
    fault("product-without-its-last-rows", "the last rows, which fill no tile, are left out",
          "known faults 32",
          cpu=[(oracle("wide"), "len(out) * i // parts for i", "len(out) // parts * i for i")],
          simulator=[(kernel("matmul"), "grid = (ceil_div(N, tile), ceil_div(M, tile))",
                      "grid = (ceil_div(N, tile), max(1, M // tile))")],
          gpu=[(kernel("sm90/matmul_kernel"),
                "tiles_m = (M + (ROWS * cluster - 1)) // (ROWS * cluster)",
                "tiles_m = max(1, M // (ROWS * cluster))")]),
    fault("squares-without-the-rest", "what is left over when the parts are cut is not squared",
          "ours: a division rounded down",
          cpu=[(oracle("reduce"), "part = -(-len(x) // len(partials))",
                "part = len(x) // len(partials)")],
          simulator=[(kernel("reduce"), "part = (n + partials.shape[0] - 1) // partials.shape[0]",
                      "part = n // partials.shape[0]")],
          gpu=[(kernel("sm80/reduce"), "part = ceil_div(n, P)", "part = n // P")]),
    fault("rmsnorm-writes-one-row-more", "the row behind the last one is written",
          "ours: an index off by one",
          gpu=[(kernel("sm80/rmsnorm"), "        if row < R:\n", "        if row <= R:\n")]),
    fault("split-tile-closed-too-early", "the first part of a tile to arrive writes the sum of all",
          "ours: the last arrival taken for the first",
          cpu=[(kernel("sm80/matmul_kernel"), "np.int32(increment(counter)) == parts - 1:",
                "np.int32(increment(counter)) == 0:")]),
]

BARRIERS = [
    fault("attention-without-barrier", "scores are computed before the tiles of q and k stand",
          "ours: a barrier forgotten",
          simulator=[(kernel("attention"), "            cuda.syncthreads()  # q, k, v stand"
                      " before anyone multiplies\n", "")]),
    fault("product-without-barrier", "slices are multiplied before they stand",
          "ours: a barrier forgotten",
          simulator=[(kernel("matmul"), "            cuda.syncthreads()  # both slices stand"
                      " before anyone multiplies\n", "")]),
    fault("copies-not-awaited", "fragments are loaded while their copies are on the way",
          "ours: a wait forgotten",
          cpu=[(kernel("sm80/matmul_kernel"), "        wait_next()\n"
                "        cuda.syncthreads()  # every thread's", "        cuda.syncthreads()  # every "
                "thread's")]),
]

FAULTS = GRADIENTS + ADAMW + NUMBERS + TILES + BARRIERS
