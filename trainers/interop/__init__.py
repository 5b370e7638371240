"""Adapters that let other projects' trainers and tools use the environment: one file per project, on the public API only."""
