"""D4RL's files: reading, writing, downloading, and what is irregular in them."""
