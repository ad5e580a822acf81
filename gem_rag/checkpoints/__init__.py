"""Checkpoints: names to files, files to a model's parts and back, and who is who."""
