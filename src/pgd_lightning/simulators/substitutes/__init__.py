"""Policies and recipes of the substitute datasets, for machines without D4RL's files."""
