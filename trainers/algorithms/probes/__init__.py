"""Methods whose credit comes from the policy's own probabilities after each round. One method, one file."""
