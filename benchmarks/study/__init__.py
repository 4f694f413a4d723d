"""Studies: run configs over data sets and seeds, collect the results, and make their tables."""
