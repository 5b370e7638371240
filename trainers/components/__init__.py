"""Parts that several algorithms share: signals of single rounds, trees of restored states, pairs for preference losses."""
