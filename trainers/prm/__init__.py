"""Step reward models: labels of rounds, the model that learns them, and the judge and the audit that use it."""
