"""Methods that learn from preferred and filtered rounds: preference losses and imitation. One method, one file."""
