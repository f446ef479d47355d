"""What is computed, in which order: families, parameters, activations, decoder."""
