"""What is computed once and read from disk afterwards: readings of texts, rows of JSON."""
