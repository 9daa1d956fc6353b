"""What a command finds in its run folders or makes now: datasets, models, agents, generators."""
