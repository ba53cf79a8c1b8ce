"""The page of the whole story: what every phase of the training brought, what it cost, what came of it."""
