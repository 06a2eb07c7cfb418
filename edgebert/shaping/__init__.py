"""Checkpoints and their shape: reading them, and changing how many layers they have."""
