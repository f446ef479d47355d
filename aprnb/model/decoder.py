"""The decoder as two lists of op calls: forward, and the same list reversed.

Pre-norm transformer (Qwen2, Llama): each layer adds attention and a gated MLP to the residual
stream. The add of one branch and the norm before the next are one op. `ops` is whatever the backend
bound, the NumPy oracle or kernels on a stream; nothing here knows which. Ops are enqueued in order
on one stream and nothing here waits for them: only a download (a loss, logits) synchronises.
"""
from functools import partial



class Decoder:
    """One pass over a fixed (batch, length): weights and activations as named views."""

    def __init__(self, config, ops, weights, acts, rope, recompute="none"):
        """weights, acts: name -> array; rope: (cos, sin), each (>= length, head_dim / 2);
        recompute: what of a layer the backward pass computes anew (activations.RECOMPUTED)."""
        self.config, self.ops, self.weights, self.acts = config, ops, weights, acts
        self.recompute = recompute
        batch, length = self._act(0, "qkv").shape[:2]
        self.cos, self.sin = (table[:length] for table in rope)
        self.rows = batch * length
        self.heads = config.num_heads + config.num_kv_heads  # RoPE turns queries and keys
        self.head = weights["model.embed_tokens.weight" if config.tied else "lm_head.weight"]

    # ------------------------------------------------------------ forward

    def forward(self, ids):
        """Hidden states after the final norm, (R, C).  Shapes: ids (R,) i32 on the device."""
        ops, acts, branch = self.ops, self.acts, self.acts["branch"]
        residual = None
        for layer in range(self.config.num_layers):
            w, a = self._layer(layer)
            if residual is None:
                ops.embedding_forward(a("s_attn"), self.weights["model.embed_tokens.weight"], ids)
                self._first_norm(w, a)
            else:
                ops.add_rmsnorm_forward(a("s_attn"), a("y_attn"), a("rstd_attn"), residual, branch,
                                        w("input_layernorm.weight"), self.config.rms_norm_eps)
            self._attention(w, a)
            self._expand(w, a)
            ops.linear_forward(branch, a("act"), w("mlp.down_proj.weight"), None)
            residual = a("s_mlp")
        ops.add_rmsnorm_forward(acts["s_final"], acts["y_final"], acts["rstd_final"], residual,
                                branch, self.weights["model.norm.weight"],
                                self.config.rms_norm_eps)
        return acts["y_final"]

    def _first_norm(self, w, a):
        """The norm before the attention, of a residual stream that stands."""
        self.ops.rmsnorm_forward(a("y_attn"), a("rstd_attn"), a("s_attn"),
                                 w("input_layernorm.weight"), self.config.rms_norm_eps)

    def _attention(self, w, a):
        """From the first norm to the second."""
        ops, qkv, o, branch = self.ops, a("qkv"), a("o"), self.acts["branch"]
        ops.linear_forward(self._flat(qkv), a("y_attn"), w("qkv.weight"), self._bias(w))
        ops.rope_forward(qkv, self.cos, self.sin, self.heads)
        ops.attention_forward(o, a("lse"), qkv)
        ops.linear_forward(branch, self._flat(o), w("self_attn.o_proj.weight"), None)
        ops.add_rmsnorm_forward(a("s_mlp"), a("y_mlp"), a("rstd_mlp"), a("s_attn"), branch,
                                w("post_attention_layernorm.weight"), self.config.rms_norm_eps)

    def _expand(self, w, a):
        """From the second norm to the activation of the MLP."""
        self.ops.linear_swiglu_forward(a("act"), a("gate_up"), a("y_mlp"), w("gate_up.weight"))

    def losses(self, targets):
        """Loss in nats of every row, after forward.  Shapes: targets (R,) i32 -> (R,) f32"""
        acts = self.acts
        self.ops.linear_cross_entropy_forward(acts["losses"], acts["logits"], acts["y_final"],
                                              self.head, targets)
        return acts["losses"]

    def logits(self, start, stop):
        """Logits of rows start..stop-1, at most len(acts["answers"]) of them, (n, V) f32."""
        out = self.acts["answers"][:stop - start]
        self.ops.linear_forward(out, self.acts["y_final"][start:stop], self.head, None)
        return out

    # ------------------------------------------------------------ backward

    def backward(self, grads, ids, targets, scale, accumulate):
        """Losses of every row and the gradients of scale * sum(losses), after forward.

        Shapes: grads name -> f32 view of the gradient arena; ids, targets (R,) i32; scale (1,) f32
        """
        ops, acts = self.ops, self.acts
        tied = self.config.tied
        d_residual, d_hidden = acts["d_residual"], acts["d_hidden"]
        ops.linear_cross_entropy_backward(
            acts["losses"], d_hidden, grads["model.embed_tokens.weight" if tied else
                                          "lm_head.weight"],
            acts["logits"], acts["y_final"], self.head, targets, scale, accumulate)
        ops.rmsnorm_backward(d_residual, grads["model.norm.weight"], d_hidden, acts["s_final"],
                             self.weights["model.norm.weight"], acts["rstd_final"], accumulate)
        for layer in reversed(range(self.config.num_layers)):
            self._layer_backward(layer, grads, accumulate)
        # the head has written a tied table already, so the embedding always adds to it
        ops.embedding_backward(grads["model.embed_tokens.weight"], d_residual, ids,
                               accumulate or tied)
        return acts["losses"]

    def _layer_backward(self, layer, grads, accumulate):
        ops, d_residual, d_hidden = self.ops, self.acts["d_residual"], self.acts["d_hidden"]
        w, a = self._layer(layer)
        g = _named(grads, f"model.layers.{layer}.")
        self._compute_anew(layer, w, a)
        self._mlp_backward(w, a, g, accumulate)
        ops.add_rmsnorm_backward(d_residual, g("post_attention_layernorm.weight"), d_hidden,
                                 d_residual, a("s_mlp"), w("post_attention_layernorm.weight"),
                                 a("rstd_mlp"), accumulate)
        self._attention_backward(w, a, g, accumulate)
        ops.add_rmsnorm_backward(d_residual, g("input_layernorm.weight"), d_hidden, d_residual,
                                 a("s_attn"), w("input_layernorm.weight"), a("rstd_attn"),
                                 accumulate)

    def _compute_anew(self, layer, w, a):
        """What the forward pass did not keep; of the last layer it still stands."""
        if layer == self.config.num_layers - 1:
            return
        if self.recompute == "block":
            self._first_norm(w, a)
            self._attention(w, a)
        if self.recompute != "none":
            self._expand(w, a)

    def _mlp_backward(self, w, a, g, accumulate):
        ops, acts = self.ops, self.acts
        ops.swiglu_linear_backward(acts["d_gate_up"], acts["d_act"], g("mlp.down_proj.weight"),
                                   self._branch_gradient(), a("gate_up"), a("act"),
                                   w("mlp.down_proj.weight"), accumulate)
        ops.linear_backward(acts["d_hidden"], g("gate_up.weight"), None, acts["d_gate_up"],
                            a("y_mlp"), w("gate_up.weight"), accumulate)

    def _attention_backward(self, w, a, g, accumulate):
        ops, acts = self.ops, self.acts
        d_o, d_qkv = acts["d_o"], acts["d_qkv"]
        ops.linear_backward(self._flat(d_o), g("self_attn.o_proj.weight"), None,
                            self._branch_gradient(), self._flat(a("o")),
                            w("self_attn.o_proj.weight"), accumulate)
        ops.attention_backward(d_qkv, acts["delta"], d_o, a("qkv"), a("o"), a("lse"))
        if self.config.qkv_bias:
            ops.rope_backward_bias(d_qkv, g("qkv.bias"), self.cos, self.sin, self.heads,
                                   accumulate)
        else:
            ops.rope_backward(d_qkv, self.cos, self.sin, self.heads)
        ops.linear_backward(acts["d_hidden"], g("qkv.weight"), None, self._flat(d_qkv),
                            a("y_attn"), w("qkv.weight"), accumulate)

    def _branch_gradient(self):
        """The gradient of the branch that was added last: that of the residual stream, which in
        another type than the weights is converted to theirs first."""
        acts = self.acts
        if "d_branch" not in acts:
            return acts["d_residual"]
        flat = (acts["d_residual"].size,)
        self.ops.convert(acts["d_branch"].reshape(flat), acts["d_residual"].reshape(flat))
        return acts["d_branch"]

    # ------------------------------------------------------------ views

    def _layer(self, layer):
        """Look-ups of one layer's weights and activations by their short names."""
        return _named(self.weights, f"model.layers.{layer}."), partial(self._act, layer)

    def _act(self, layer, name):
        """A layer's own buffer, or the one that all layers share."""
        own = f"{layer}.{name}"
        return self.acts[own if own in self.acts else f"all.{name}"]

    def _bias(self, named):
        return named("qkv.bias") if self.config.qkv_bias else None

    def _flat(self, x):
        """(B, T, N, D) as the (R, N * D) matrix that products see."""
        return x.reshape((self.rows, x.shape[2] * x.shape[3]))


def _named(table, prefix):
    return lambda name: table[prefix + name]
