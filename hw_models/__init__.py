"""Devices: measuring, fitting and reading what architectures cost on them."""
