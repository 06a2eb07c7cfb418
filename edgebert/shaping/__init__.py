"""Checkpoints and their shape: reading it, counting it, changing layers, widths and tokens."""
