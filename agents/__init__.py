"""Agents, which answer observations. Import from the sub-modules; this package itself loads nothing heavy."""
