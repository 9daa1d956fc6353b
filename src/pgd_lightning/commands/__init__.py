"""The verbs: one file each, found by its name; ``pgd VERB`` calls its ``main(config, overrides)``."""
