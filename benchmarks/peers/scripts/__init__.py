"""The peers' sides: each runs under its own interpreter and imports nothing of ours."""
