"""Pairs out of unlabelled documents: questions the model writes about its chunks."""
