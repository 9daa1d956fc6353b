"""Networks: torch only, no knowledge of diffusion or reinforcement learning."""
