"""Threads that work on fake tensors while others change what all threads share."""
