"""What `gpu_tables.py` is made of: graphs without weights, the candidates, and how they are timed."""

from __future__ import annotations
