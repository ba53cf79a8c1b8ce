"""A package of the same outer shape as the organiser's `kaggle_evaluation`, written from its description."""

from pathlib import Path

SERVER = '''
"""A stand-in: imports its gateway by its bare name and refuses lambdas and bound methods, as the original."""
import os, sys
import {flavour}_gateway


class {name}:
    def __init__(self, *listeners):
        (predict,) = listeners
        if predict.__name__ == "<lambda>" or hasattr(predict, "__self__"):
            raise ValueError("Functions passed as endpoint listeners must be named")
        self.predict = predict

    def serve(self):
        assert os.environ["KAGGLE_IS_COMPETITION_RERUN"]
        {flavour}_gateway.run(self.predict, None)

    def run_local_gateway(self, data_paths=None):
        {flavour}_gateway.run(self.predict, data_paths)
'''
GATEWAY = """
from pathlib import Path
import polars as pl


def run(predict, data_paths):
    path = data_paths[0] if data_paths else Path(__file__).parent.parent / "test.csv"
    frames = [predict(*row.get_columns()) for row in pl.read_csv(path).iter_slices(1)]
    assert all(frame.shape == (1, 2) for frame in frames)
    pl.concat(frames).write_parquet("submission.parquet")
"""


def make_package(folder: Path, flavour: str, name: str) -> Path:
    """Write the package and its test.csv (problems x1, x2) into `folder`."""
    package = folder / "kaggle_evaluation"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / f"{flavour}_inference_server.py").write_text(SERVER.format(flavour=flavour, name=name))
    (package / f"{flavour}_gateway.py").write_text(GATEWAY)
    (folder / "test.csv").write_text("id,problem\nx1,What is 1+1?\nx2,What is 2+2?\n")
    return folder
