"""Trainers: one algorithm, one file, one shared loop. Import what you need from the submodules."""
