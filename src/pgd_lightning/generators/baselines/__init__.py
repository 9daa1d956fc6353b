"""The generators that PGD is compared with."""
