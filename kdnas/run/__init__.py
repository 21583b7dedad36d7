"""Run directories, atomic files, seeds, threads, and the training loop that every stage shares."""
