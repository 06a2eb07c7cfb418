"""Serving without torch: text to tokens, tokens to a runtime session, arrays to answers."""
