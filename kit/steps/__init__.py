"""Monte-Carlo step labels: `python -m kit.steps`."""
