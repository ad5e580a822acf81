"""Texts to learn from: where they come from, the pairs made of them, and a run's batches."""
