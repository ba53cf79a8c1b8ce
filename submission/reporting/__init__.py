"""What a person sees of a contest: the live view, the table, the page."""
