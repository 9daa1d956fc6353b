"""Diffusion in one noise coordinate: ``denoised = denoise(x, sigma)``. Knows nothing of reinforcement learning."""
