"""Is PyTorch's side given causal attention? Judged on the traced graph, before it is compiled.

transformers builds a mask of all T x T pairs where it cannot see its inputs, as under
torch.compile. Attention then works on the whole square instead of the lower half, with kernels that
are slower still, and nothing tells: the loss is the same. So what is compiled is read first.
"""
from ..errors import AprnbError

SDPA = "scaled_dot_product_attention"
POSITIONS = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")  # of its arguments
CAUSAL_BY_NAME = "aprnb_fa4"  # our operator of FlashAttention-4, see fa4.py: it takes no mask


def attention_calls(nodes):
    """(has a mask, is causal) of every attention call among the nodes of a traced graph.

    nodes: anything with target, args and kwargs, as torch.fx.Node has them
    """
    for node in nodes:
        if SDPA in str(node.target):
            given = dict(zip(POSITIONS, node.args)) | node.kwargs
            yield given.get("attn_mask") is not None, given.get("is_causal", False)
        elif CAUSAL_BY_NAME in str(node.target):
            yield False, True


def refuse_dense(calls):
    """Errors: AprnbError if one of these attention calls is not causal, or has a mask."""
    calls = list(calls)
    dense = sum(masked or not causal for masked, causal in calls)
    if dense:
        raise AprnbError(f"bench: PyTorch's side is held back: {dense} of its {len(calls)} calls "
                         "of attention get a mask of all pairs, need is_causal and no mask; try "
                         "transformers 5.17, whose own attention functions get no mask")


def refuse_unknown(count, layers):
    """Errors: AprnbError unless there were as many attention calls as layers."""
    if count != layers:
        raise AprnbError(f"bench: PyTorch's side calls attention {count} times in {layers} layers, "
                         "need once in each: nobody can say what it computes")


class JudgedInductor:
    """A backend of torch.compile: refuse_dense what was traced, then compile it with Inductor."""

    def __init__(self, options):
        """options: of torch._inductor.config, for this graph alone"""
        self.options, self.calls = options, 0

    def __call__(self, graph, inputs):
        from torch._inductor.compile_fx import compile_fx
        self.judge(graph)
        return compile_fx(graph, inputs, config_patches=self.options)

    def judge(self, graph):
        """Count the attention calls of a torch.fx.GraphModule and those in it.

        Errors: AprnbError, see refuse_dense.
        """
        parts = [part.graph for part in graph.modules() if hasattr(part, "graph")]
        calls = list(attention_calls(node for part in parts for node in part.nodes))
        refuse_dense(calls)
        self.calls += len(calls)


def compiled(function, backend):
    """`function` compiled for the shapes of its first call; our refusals keep their own words."""
    import torch
    fast = torch.compile(function, backend=backend, dynamic=False)

    def call(*arguments):
        try:
            return fast(*arguments)
        except torch._dynamo.exc.BackendCompilerFailed as error:
            raise _own(error) from None
    return call


def _own(error):
    """The refusal of ours that a compiler's error carries, or that error."""
    inner = getattr(error, "inner_exception", None)
    return inner if isinstance(inner, AprnbError) else error
