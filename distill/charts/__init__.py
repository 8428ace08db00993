"""Charts of what was measured, as SVG."""
