"""What the author of an algorithm uses: base class, groups of episodes and how they are collected, credit, batch, objective."""
