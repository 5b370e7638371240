"""The viewer of episodes, runs and benchmarks: finds and indexes their files, serves one page, exports one HTML file."""
