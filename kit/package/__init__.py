"""Makes a checkpoint into an offline contest bundle, proves what is inside, and rehearses it.

Command line: `python -m kit.package --help`.
"""
