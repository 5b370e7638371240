"""The credit audit: the true value of recorded rounds, and how close each trainer's credit comes to it."""
