"""Agents: whatever answers an observation. Import what you need from the submodules; nothing heavy loads here."""
