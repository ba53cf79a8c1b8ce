"""The model types and generating architectures that the installed transformers knows, by name only."""

import functools
import importlib
import json
import os
import subprocess
import sys
from types import ModuleType

_AUTO = "transformers.models.auto.modeling_auto"
# Hidden torch: transformers then lists its names in a third of the time, and no model class can be imported.
_LIST_NAMES = """
import importlib, json, sys
sys.modules["torch"] = None
auto = importlib.import_module("transformers.models.auto.modeling_auto")
names = {model_type: [] for model_type in auto.CONFIG_MAPPING_NAMES}
for mapping in (auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES):
    for model_type, found in mapping.items():
        names.setdefault(model_type, []).extend([found] if isinstance(found, str) else found)
json.dump(names, sys.stdout)
"""


@functools.cache
def generating_architectures() -> dict[str, list[str]]:
    """Each model type that transformers knows, with its architectures that generate text (often none).

    Models that also take images count, since many text models of today are published as such. The names are
    read in a process of their own, which keeps transformers out of this one's memory; where it is loaded
    already, as in every rank that trains, from there: a second of every start.

    Raises:
        ValueError: transformers is not installed or does not list its models.
    """
    if _AUTO in sys.modules:
        return _names_of(importlib.import_module(_AUTO))
    done = subprocess.run(
        # -P: a transformers.py in the working folder must not be taken for the library.
        [sys.executable, "-P", "-c", _LIST_NAMES],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"},
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ValueError(
            f"transformers' list of models cannot be read ({reason}); install the extra `package`"
        )
    names: dict[str, list[str]] = json.loads(done.stdout)
    return names


def _names_of(auto: ModuleType) -> dict[str, list[str]]:
    """As `_LIST_NAMES`, of the module in this process."""
    names: dict[str, list[str]] = {model_type: [] for model_type in auto.CONFIG_MAPPING_NAMES}
    for mapping in (auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES):
        for model_type, found in mapping.items():
            names.setdefault(model_type, []).extend([found] if isinstance(found, str) else found)
    return names
