"""The one fit of all modules, its callbacks and loggers, and how ranks share it."""
