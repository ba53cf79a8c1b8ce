"""Times, partitions as sinfo prints them, requests that can run there and requests that never can."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.launch.check import Node, Partition, Request, ask_cluster, check, parse_sinfo
from kit.launch.durations import limit_of, minutes_of

# As Slurm 22.05 prints it: two kinds of GPU nodes, a debug partition, nodes that are away.
SINFO = """\
gpu*|g1|idle|64|512000|2-00:00:00|1-infinite|gpu:a100:4(S:0-1)
gpu*|g2|mixed|64|512000|2-00:00:00|1-infinite|gpu:a100:4(S:0-1)
gpu*|g3|drained|64|512000|2-00:00:00|1-infinite|gpu:a100:4(S:0-1)
gpu*|h1|idle|96+|1024000|2-00:00:00|1-infinite|gpu:h100:8,mps:800
debug|g1|idle|64|512000|30:00|1-2|gpu:a100:4(S:0-1)
debug|g2|mixed|64|512000|30:00|1-2|gpu:a100:4(S:0-1)
debug|c1|down*|8|16000|30:00|1-2|(null)
"""


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("90", 90),
        ("4h", 240),
        ("90m", 90),
        ("90min", 90),
        ("1d12h", 2_160),
        ("1d", 1_440),
        (" 2H ", 120),
        ("04:00:00", 240),
        ("30:00", 30),
        ("0:01", 1),
        ("2-00:00:00", 2_880),
        ("2-12", 3_600),
        ("1-00:30", 1_470),
    ],
)
def test_times_as_people_and_slurm_write_them(text: str, minutes: int) -> None:
    assert minutes_of(text) == minutes


@pytest.mark.parametrize("text", ["", "0", "4 hours", "h", "-5", "1:2:3:4", "1.5h", "٣", "forever"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not of a form such as 90"):
        minutes_of(text)


def test_limits_may_be_none() -> None:
    assert limit_of("infinite") is limit_of("n/a") is None
    assert limit_of("1-00:00:00") == 1_440


@given(st.integers(0, 99), st.integers(0, 23), st.integers(0, 59), st.integers(1, 59))
def test_slurms_own_form_is_read_back(days: int, hours: int, minutes: int, seconds: int) -> None:
    text = f"{days}-{hours:02}:{minutes:02}:{seconds:02}"
    assert minutes_of(text) == (days * 24 + hours) * 60 + minutes + 1


def test_sinfo_is_read() -> None:
    found = parse_sinfo(SINFO)
    assert list(found) == ["gpu", "debug"]
    gpu, debug = found["gpu"], found["debug"]
    assert (gpu.default, gpu.minutes, gpu.most_nodes) == (True, 2_880, None)
    assert (debug.default, debug.minutes, debug.most_nodes) == (False, 30, 2)
    assert gpu.nodes[3] == Node("h1", "idle", 96, 1_024_000, 8)
    assert [node.usable for node in gpu.nodes] == [True, True, False, True]
    assert debug.nodes[2] == Node("c1", "down*", 8, 16_000, 0)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (
            Request(1, partition="gpus"),
            r"^--partition gpus: there is none of that name; there are gpu, debug$",
        ),
        (Request(5), r"^--nodes 5: partition gpu has 4 nodes$"),
        (Request(2, gpus_per_node=8), r"^--nodes 2: partition gpu has 1 nodes with 8 GPUs$"),
        (
            Request(1, gpus_per_node=16),
            r"^--gpus-per-node 16: no node of partition gpu has more than 8 GPUs$",
        ),
        (
            Request(1, cpus_per_node=97),
            r"^--cpus-per-node 97: no node of partition gpu has more than 96 CPUs$",
        ),
        (Request(1, memory=2_000_000), r"^--mem 2000000: no node .* more than 1024000 MiB of memory$"),
        (Request(2, 4, 80), r"^--nodes 2: partition gpu has 1 nodes with 4 GPUs with 80 CPUs$"),
        (Request(1, minutes=2_881), r"^--time is 2881 minutes, but partition gpu ends jobs after 2880$"),
        (Request(1, minutes=31, partition="debug"), r"after 30; longer ones: gpu$"),
        (Request(3, partition="debug"), r"^--nodes 3: partition debug gives a job 2 at most$"),
    ],
)
def test_a_request_that_can_never_run_is_refused(request_: Request, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check(request_, parse_sinfo(SINFO))


def test_a_request_that_fits_passes_and_one_that_must_wait_says_for_what() -> None:
    partitions = parse_sinfo(SINFO)
    assert check(Request(3, gpus_per_node=4, minutes=2_880), partitions) == []
    (waiting,) = check(Request(4, gpus_per_node=4), partitions)
    assert waiting == "only 3 of the 4 nodes can be had now (g3 is drained); the job waits for them"


def test_no_default_partition_asks_for_one() -> None:
    only = {"a": Partition("a", False, None, None, ())}
    with pytest.raises(ValueError, match="no default partition: give --partition, one of a"):
        check(Request(1), only)


def test_without_slurm_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ValueError, match=r"sinfo is not on PATH\); --cluster local"):
        ask_cluster()
