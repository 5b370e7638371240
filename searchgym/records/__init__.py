"""The values that environment, retrievers, agents, judges and trainers exchange: questions, hits, acts, verdicts, rounds, episodes."""
