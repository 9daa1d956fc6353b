"""How good is a policy, how good is synthetic data, and how sure can one be."""
