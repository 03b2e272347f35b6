"""On a real GPU, with CuPy, torch and JAX as the producers of tensors and the oracles of loads."""
