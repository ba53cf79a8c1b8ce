"""Training of process reward models: `python -m kit.train prm`."""
