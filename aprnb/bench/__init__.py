"""How fast it is: every figure beside that of a strong library, both sides in one run."""
