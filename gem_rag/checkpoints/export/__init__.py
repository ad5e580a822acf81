"""A checkpoint as other runtimes take it: what they need of it, and a folder for each."""
