"""Several runs side by side: which to submit, or that the data cannot tell."""
