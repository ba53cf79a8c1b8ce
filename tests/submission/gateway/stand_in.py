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

    def run_local_gateway(self, {data}=None):
        {flavour}_gateway.run(self.predict, {data})
'''
GATEWAY = """
from pathlib import Path
import polars as pl


def run(predict, data):
    if isinstance(data, tuple):
        path = data[0]
    else:
        path = Path(data or Path(__file__).parent.parent) / "test.csv"
    frames = []
    for row in pl.read_csv(path).iter_slices(1):
        frames.append(predict(*row.get_columns()))
        assert frames[-1].shape == (1, 2)
        # The oldest version compares the id, the newest refuses a null.
        assert frames[-1]["id"].equals(row["id"])
        assert frames[-1].null_count().row(0) == (0, 0)
    pl.concat(frames).write_parquet("submission.parquet")
"""


def make_package(folder: Path, flavour: str, name: str, *, by_folder: bool = False) -> Path:
    """Write the package and its test.csv (problems x1, x2) into `folder`.

    Args:
        by_folder: its local gateway is given the folder of test.csv, as since 1.7, not the file.
    """
    data = "competition_data_folder" if by_folder else "data_paths"
    package = folder / "kaggle_evaluation"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / f"{flavour}_inference_server.py").write_text(
        SERVER.format(flavour=flavour, name=name, data=data)
    )
    (package / f"{flavour}_gateway.py").write_text(GATEWAY)
    (folder / "test.csv").write_text("id,problem\nx1,What is 1+1?\nx2,What is 2+2?\n")
    return folder
