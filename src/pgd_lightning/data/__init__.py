"""From recorded files to tensors. Needs neither gym nor d4rl nor MuJoCo, and loads neither Lightning nor Hydra."""
