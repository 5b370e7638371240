"""From a batch to new weights: the update, optimizers, checkpoints."""
