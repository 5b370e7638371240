"""Training algorithms: one algorithm, one file."""
