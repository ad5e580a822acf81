"""Files and documents into the index: what there is to do, doing it, what was done."""
