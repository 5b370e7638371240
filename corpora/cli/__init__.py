"""Commands that handle corpora and indexes."""
