"""torch and transformers, which some tools need and the package never imports."""
import sys

try:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
except ImportError:  # --help has to answer all the same
    torch = AutoModelForCausalLM = AutoTokenizer = None

__all__ = ["AutoModelForCausalLM", "AutoTokenizer", "require", "torch"]


def require():
    """End the program with one line (exit 9) where they are missing."""
    if torch is None:
        print(f"error: {sys.argv[0]} needs torch and transformers; install them, or use an "
              "interpreter that has them", file=sys.stderr)
        sys.exit(9)
