"""The top floor: the command line, and one runnable module per study."""
