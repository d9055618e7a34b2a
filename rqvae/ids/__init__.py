"""Semantic IDs out: collisions resolved, tokens, look-up, and the files that we and other systems read."""
