"""Neural architecture search on JAX: an architecture is data, not code."""
