"""Methods whose credit comes from verdicts or rules on single rounds. One method, one file."""
