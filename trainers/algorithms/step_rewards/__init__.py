"""Methods whose reward of a round comes from a learned model. One method, one file."""
