"""What the papers claim, and what can be recomputed of it."""
