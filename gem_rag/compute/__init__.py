"""What is run: one pass over one batch, by the base, its adapters and their positions."""
