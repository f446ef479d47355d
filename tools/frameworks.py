"""torch and transformers, which some tools need and the package never imports."""
import sys

try:
    from transformers import AutoModelForCausalLM, AutoTokenizer
except ImportError:  # --help has to answer all the same
    AutoModelForCausalLM = AutoTokenizer = None
try:
    import torch
except ImportError:
    torch = None

__all__ = ["AutoModelForCausalLM", "AutoTokenizer", "require", "torch"]


def require(need_torch=True):
    """End the program with one line (exit 9) where they are missing."""
    if AutoTokenizer is None or need_torch and torch is None:
        names = "torch and transformers" if need_torch else "transformers"
        print(f"error: {sys.argv[0]} needs {names}; install them, or use an interpreter that has "
              "them", file=sys.stderr)
        sys.exit(9)
