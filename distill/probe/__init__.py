"""A look ahead: what a run would do, before it is trained."""
