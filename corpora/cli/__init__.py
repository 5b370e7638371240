"""The commands that manage corpora and indexes."""
