"""Checkpoints of PyTorch's modules and optimizers."""
