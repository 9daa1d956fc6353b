"""Generators turn a policy into windows of synthetic experience."""
