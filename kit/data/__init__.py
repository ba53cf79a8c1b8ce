"""Data for training: readers, cleaning steps, and the card that tells what was kept and why."""
