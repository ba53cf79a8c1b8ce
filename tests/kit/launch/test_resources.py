"""What a job asks for, as sbatch's parameters."""

import pytest

from kit.launch.check import Request
from kit.launch.resources import FURTHER, OURS, Resources, option


def test_what_is_not_asked_for_is_left_to_the_partition() -> None:
    assert Resources().parameters() == {
        "time": 240,
        "wckey": None,
        "additional_parameters": {
            "nodes": 1,
            "ntasks-per-node": 1,
            "requeue": True,
            "kill-on-invalid-dep": "yes",
        },
    }


def test_everything_asked_for_reaches_sbatch() -> None:
    asked = Resources(
        nodes=4,
        gpus_per_node=8,
        cpus_per_node=96,
        mem="1T",
        time="1d",
        partition="gpu",
        account="math",
        slurm={"qos": "high", "exclusive": ""},
    )
    assert asked.parameters() == {
        "partition": "gpu",
        "account": "math",
        "mem": "1T",
        "gpus_per_node": 8,
        "cpus_per_task": 96,
        "time": 1_440,
        "wckey": None,
        "additional_parameters": {
            "qos": "high",
            "exclusive": True,
            "nodes": 4,
            "ntasks-per-node": 1,
            "requeue": True,
            "kill-on-invalid-dep": "yes",
        },
    }
    assert asked.request == Request(4, 8, 96, 1_048_576, 1_440, "gpu")


@pytest.mark.parametrize(
    ("text", "mebibytes"), [("500", 500), ("500M", 500), ("2g", 2048), ("2048K", 2), ("", 0)]
)
def test_memory_as_slurm_writes_it(text: str, mebibytes: int) -> None:
    assert Resources(mem=text).request.memory == mebibytes


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mem": "lots"}, "mem 'lots' is not of a form such as 64G"),
        ({"time": "soon"}, "time 'soon' is not of a form"),
        ({"nodes": 0}, "nodes: Input should be greater than or equal to 1"),
        ({"slurm": {"foo": "1"}}, "--slurm foo: unknown parameter"),
    ],
)
def test_what_is_nonsense_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Resources.parse(settings, "here")


def test_further_options_are_given_as_sbatch_names_them() -> None:
    assert option("--mail_type=END") == ("mail-type", "END")
    assert option("exclusive") == ("exclusive", "")
    assert option("gres=gpu:a100:2") == ("gres", "gpu:a100:2")


def test_an_unknown_option_names_all_valid_ones() -> None:
    with pytest.raises(ValueError) as caught:
        option("reservaton=1")
    message = str(caught.value)
    assert "(did you mean 'reservation'?); valid are reservation, " in message
    assert all(name in message for name in (*FURTHER, *OURS.values()))


def test_an_option_that_the_launcher_has_is_pointed_at() -> None:
    with pytest.raises(ValueError, match=r"^--slurm ntasks-per-node: give --ranks-per-node instead$"):
        option("ntasks_per_node=8")
    assert not set(FURTHER) & set(OURS)
