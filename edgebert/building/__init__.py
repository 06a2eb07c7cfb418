"""Building: from a checkpoint to artifacts that have proved themselves; `edgebert.build` is its face."""
