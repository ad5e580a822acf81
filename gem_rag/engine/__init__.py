"""When it is run, and for whom: requests to rows, steps to text, many texts to batches."""
