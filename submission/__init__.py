"""The contest runtime: everything that ships inside a bundle, and nothing that does not.

It imports nothing from `kit`, `benchmarks` or `tests`, and `import submission` loads neither torch nor
vllm: `serve()` has to be reached within seconds whatever the model's size.
"""

__version__ = "0.1.0"
