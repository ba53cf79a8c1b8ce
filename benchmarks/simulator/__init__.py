"""Contests to come, played on a virtual clock from recorded samples: what would other settings have given."""
