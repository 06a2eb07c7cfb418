"""Judging an artifact: is it right (parity), how good (metrics), how fast (latency). Nothing here edits one."""
