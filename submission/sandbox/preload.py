"""What the server imports before its first fork, for all workers to share."""

import gc
import importlib
import sys


def preload(names: tuple[str, ...]) -> dict[str, str]:
    """Import modules for all workers to share; the names of those that fail, with the reason."""
    missing = {}
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            missing[name] = str(error)
    if "sympy" in sys.modules:
        _warm_up_sympy()
    # What is imported stays in pages that the collector of no worker touches.
    gc.collect()
    gc.freeze()
    return missing


def _warm_up_sympy() -> None:
    """Have it import what its solvers import at first use: 0.1 s for each worker otherwise."""
    import sympy

    x = sympy.Symbol("x")
    sympy.solve(x**2 - x - 1, x)
    sympy.integrate(x * sympy.sin(x), x)
    sympy.simplify(sympy.sin(x) ** 2 + sympy.cos(x) ** 2)
    sympy.factorint(2**31 + 11)
    sympy.Matrix([[1, 2], [3, 4]]).eigenvals()
