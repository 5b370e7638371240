"""Several processes: data parallelism, FSDP2, rollout workers on Ray."""
