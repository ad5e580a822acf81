"""What a run shows of itself: the live line, held-out quality, checks, card and report."""
