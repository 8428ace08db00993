"""A look ahead at a run, before it is trained."""
