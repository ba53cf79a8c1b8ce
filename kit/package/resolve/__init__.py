"""Which wheels a target needs, why each one, what is wrong with the choice; downloads nothing."""
