"""Generation and log-probabilities of any causal language model; knows no chat template."""
