"""The benchmark of trainers: the same episodes for each, many seeds, intervals, and a verdict in words.

spec.py        what is compared: trainers, environments, budget, seeds, learning rates (TOML or JSON)
code.py        which code a run was made with
worker.py      one run: train or resume, evaluate once on the test split, seal
probe.py       where a trainer's credit went, by the oracle's verdicts
schedule.py    calibration, the estimate of time, parallel processes
campaign.py    selection of learning rates, then the runs that count
statistics.py  bootstrap, interquartile mean, paired differences, verdicts
results.py     sealed runs to numbers
report.py      numbers to Markdown; curves.py: to pictures
"""
