"""The way in: `predict`, the organiser's package found at run time, and a rehearsal with the same rules."""
