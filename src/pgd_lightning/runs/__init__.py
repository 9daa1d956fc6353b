"""Run folders: identity, record, checkpoints, console, ranks."""
