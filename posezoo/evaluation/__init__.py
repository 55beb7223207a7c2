"""Accuracy, measured the same way for every runtime."""
