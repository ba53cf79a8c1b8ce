"""The metadata against the official client itself: its own checks, up to the first call of its service."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from kit.package.offline import Finished, run_offline
from tests.kit.package.made import make_bundle, make_checkpoint

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("kaggle") is None, reason="the official client is not installed"
    ),
]

# The client as it is but for its service: what it would send is printed instead.
CLIENT = """
import json, sys
from requests import HTTPError
from kaggle.api.kaggle_api_extended import KaggleApi

class Reached(Exception):
    pass

class Client(KaggleApi):
    def dataset_status(self, dataset):
        raise HTTPError("no such dataset yet")

    def _upload_file(self, file_name, full_path, *_, **__):
        uploaded.append(file_name)

    def build_kaggle_client(self):
        raise Reached

uploaded = []
client = Client()
client.config_values = {"username": "someone", "key": "none"}
for push in (lambda: client.dataset_create_new(sys.argv[1], quiet=True, dir_mode="zip"),
             lambda: client.kernels_push(sys.argv[1] + "/notebook")):
    try:
        push()
    except Reached:
        print("accepted")
print(json.dumps(sorted(uploaded)))
"""


def ask_client(bundle: Path, home: Path) -> Finished:
    """Offline, with an empty home: it finds nobody's key."""
    variables = {"KAGGLE_USERNAME": "someone", "KAGGLE_KEY": "none", "PYTHONPATH": ":".join(sys.path)}
    return run_offline([sys.executable, "-c", CLIENT, str(bundle)], home=home, extra=variables, timeout=120)


def test_the_client_accepts_dataset_and_notebook(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b", make_checkpoint(tmp_path / "model"), kaggle_user="someone")
    done = ask_client(bundle, tmp_path / "home")
    assert done.code == 0, done.tail
    lines = done.tail.splitlines()
    # No warning in between, such as a title that does not fit the notebook's name.
    assert lines[:2] == ["accepted", "accepted"], done.tail
    uploaded = json.loads(lines[2])
    assert {"manifest.json", "contest.toml", "model.zip", "submission.zip", "notebook.zip"} <= set(uploaded)
    # Left out by the client, as the bundle's check at the start expects.
    assert "dataset-metadata.json" not in uploaded


@pytest.mark.parametrize(
    ("file", "key", "value", "message"),
    [
        ("dataset-metadata.json", "title", "short", "title must be between 6 and 50"),
        ("notebook/kernel-metadata.json", "kernel_type", "novel", "valid kernel type"),
    ],
)
def test_the_client_would_refuse(tmp_path: Path, file: str, key: str, value: str, message: str) -> None:
    """Its checks are met, not passed by."""
    bundle = make_bundle(tmp_path / "b", make_checkpoint(tmp_path / "model"), kaggle_user="someone")
    content = json.loads((bundle / file).read_text())
    (bundle / file).write_text(json.dumps({**content, key: value}))
    done = ask_client(bundle, tmp_path / "home")
    assert done.code == 1
    assert message in done.tail
