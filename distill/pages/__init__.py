"""Pages: one HTML file each, of one style, without scripts and without anything from outside."""
