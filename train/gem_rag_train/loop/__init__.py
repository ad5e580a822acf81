"""One run from its start to its checkpoint: the loop, its state, and the machine it runs on."""
