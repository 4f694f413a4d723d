"""Studies: rows of configs over sets and seeds, collected, and their tables."""
