"""The verbs: one file each, found by its name; ``pgd COMMAND`` calls its ``main(config, overrides)``."""
