"""Training: losses, resumable runs, and a fast path on PyTorch."""
