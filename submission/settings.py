"""Settings of a contest run. A bundle carries them as `contest.toml`; command-line flags override them.

The numbers are seconds and tokens. Shipped profiles (`submission/profiles/*.toml`) hold one contest each.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from submission.agents.team import Team
from submission.recipes import Recipe

Positive = Annotated[int, Field(gt=0)]
Seconds = Annotated[float, Field(ge=0)]


class ContestRules(Recipe):
    """What the organiser fixes: time, number of problems, range of answers."""

    name: str = "aimo3"
    time_limit: Annotated[float, Field(gt=0)] = 17_400.0
    """Seconds from process start to the last answer. AIMO 3 allows 18,000."""
    expected_problems: Annotated[int, Field(ge=0)] = 50
    """How many problems will come, 0 if unknown. More or fewer than that are both survived."""
    answer_min: int = 0
    answer_max: int = 99_999
    default_answer: int = 0
    """Given when no sample produced any answer. Must lie in the range."""
    accelerator: str = ""
    """What the GPU's name must hold ("H100"); empty: any machine will do. See `submission.preflight`."""
    accelerators: Annotated[int, Field(ge=0)] = 1
    """GPUs of that kind."""
    accelerator_gib: Annotated[float, Field(ge=0)] = 0.0
    """Memory (GiB) of each at least; makers round up, so leave a tenth."""
    licenses: tuple[str, ...] = ()
    """Licences that a model may have, as model cards name them; empty: the rules name none."""
    released_before: Annotated[str, Field(pattern=r"^(\d{4}-\d{2}-\d{2})?$")] = ""
    """Day (YYYY-MM-DD) before which the model must have been released; empty: the rules name none."""

    @model_validator(mode="after")
    def _range(self) -> Self:
        if not self.answer_min <= self.default_answer <= self.answer_max:
            raise ValueError(
                f"default_answer {self.default_answer} must lie within answer_min {self.answer_min} "
                f"and answer_max {self.answer_max}"
            )
        return self


class BudgetSettings(Recipe):
    """How the contest's time is cut into problems; see `submission.ledger`."""

    reserve: Seconds = 200.0
    """Never spent on generation: last answers, parquet, a slow gateway. At most a tenth of the limit."""
    restart: Seconds = 300.0
    """Kept for one restart of the engine until there was one, at most a tenth of what is left."""
    floor: Seconds = 240.0
    """Each problem still to come is kept at least this much, as long as the time lasts."""
    cap: Annotated[float, Field(gt=0)] = 900.0
    """No single problem gets more than this."""


class SolverSettings(Recipe):
    """Samples a problem, and when to stop drawing them."""

    num_agents: Positive = 8
    """Samples that run side by side."""
    max_attempts: Positive | None = None
    """Samples a problem at most, first wave included; by default one an agent."""
    policy: Literal["value", "agree", "adaptive", "deepconf", "fixed"] = "agree"
    """When to stop and when to draw more; see `submission.policies`. value: while another sample is worth its
    time. agree: `agree` equal votes, or a leader that cannot be caught. fixed: all attempts."""
    agree: Positive | None = 4
    """policy = agree: stop when this many samples give one answer; none: only when the leader is safe."""
    opinion_votes: Annotated[float, Field(ge=0)] = 1.0
    """What a selector's pick, or an answer that all verifiers confirm, is worth in votes."""
    temperature: Annotated[float, Field(ge=0)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    max_tokens: Positive = 32_768
    """Completion tokens a sample; what the context leaves after the prompt is the other bound."""
    stop: tuple[str, ...] = ()
    """Strings that end a completion, besides the model's own end of turn."""
    last_number: bool = False
    """Let a completion that states no answer vote with its last number: for models too small to say so."""
    seed: int = 0
    system_prompt: str = "Solve the problem step by step. Put the final answer, an integer, in \\boxed{}."

    @property
    def attempts(self) -> int:
        """Samples a problem at most."""
        return self.max_attempts or self.num_agents


class EngineSettings(Recipe):
    """How the model is served. Fields that an engine has no use for are ignored by it."""

    kind: Literal["vllm", "transformers", "replay"] = "vllm"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """auto: float32 on a CPU (bf16 is slower there), the checkpoint's own on a GPU."""
    max_model_len: Positive = 40_960
    """Context window in tokens, cut to what the checkpoint was made for."""
    max_num_seqs: Positive = 64
    """Samples that the engine batches."""
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.92
    tensor_parallel_size: Positive = 1
    kv_cache_dtype: Literal["auto", "fp8"] = "auto"
    sleep_mode: bool = False
    """vllm on a GPU: its memory can be given back for a while and taken again; `prm.swap` asks for it."""
    cpu_kv_cache_gib: Positive = 2
    enforce_eager: bool | None = None
    """None: eager on a CPU, where compilation at start costs minutes; compiled on a GPU."""
    recording: Path | None = None
    """Replay only: the recorded samples (parquet or jsonl)."""


class SupervisionSettings(Recipe):
    """How the engine's process is watched and started anew; see `submission.engines.supervised`."""

    enabled: bool = True
    """Run the engine in a process of its own; else in the contest's, where its death is the contest's."""
    start_limit: Annotated[float, Field(gt=0)] = 1_200.0
    """Seconds that a start may take: a hundred GB of weights come from a slow mount."""
    silence: Annotated[float, Field(gt=0)] = 180.0
    """Seconds without a token, while samples are asked for, after which the engine counts as hung."""
    memory_gib: Annotated[float, Field(gt=0)] | None = None
    """GiB of the machine's memory that the engine's processes may hold; none: nine tenths of all of it."""
    restart_seconds: Seconds = 120.0
    """With less time left in the contest the engine is not started anew."""
    resumes: Annotated[int, Field(ge=0, le=100)] = 3
    """Times that one sample is taken up again by a new engine before it counts as lost."""
    healthy_seconds: Seconds = 900.0
    """After this long without a failure the earlier ones no longer count."""
    second_model: Path | None = None
    """Checkpoint for the time when the first cannot be served; a relative path is the bundle's."""


class SandboxSettings(Recipe):
    """Limits of model-written Python; see `submission.sandbox`."""

    workers: Annotated[int, Field(gt=0, le=60)] = 16
    """Sessions (agents) open at a time; each has a process of its own."""
    timeout: Annotated[float, Field(gt=0, le=86_400)] = 20.0
    """Seconds a call, where the caller names none."""
    memory_mb: Annotated[int, Field(ge=64, le=1 << 20)] = 2_048
    """Address space (MiB) that a worker may add to what its libraries hold."""
    disk_mb: Annotated[int, Field(ge=1, le=1 << 20)] = 64
    """MiB that a worker's folder may hold."""
    output_chars: Annotated[int, Field(ge=200, le=1_000_000)] = 8_000
    """Of what a call prints, and of its value: the beginning and the end are kept."""
    code_chars: Annotated[int, Field(gt=0, le=1_000_000)] = 100_000
    """Longer code is refused."""
    preload: tuple[str, ...] = (
        "numpy",
        "sympy",
        "mpmath",
        "asyncio",
        "bisect",
        "cmath",
        "collections",
        "concurrent.futures",
        "copy",
        "dataclasses",
        "datetime",
        "decimal",
        "fractions",
        "functools",
        "heapq",
        "itertools",
        "json",
        "math",
        "operator",
        "queue",
        "random",
        "re",
        "statistics",
        "string",
        "time",
        "typing",
    )
    """Modules imported before the first worker: quick to import in a cell, and in memory once."""


class PrmSettings(Recipe):
    """The process reward model that scores candidates, where the bundle has one."""

    engine: Literal["transformers", "vllm"] = "transformers"
    """transformers: in this process, shared prefixes computed once. vllm: in a process of its own."""
    swap: bool = False
    """vllm for both: PRM and solver's engine take turns on the GPU, each with nearly all of its memory, and
    candidates are scored after a problem's sampling; see `submission.prm.turns`."""
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] | None = None
    """vllm on a GPU: its share. None: what its weights ask for, 0.12 at least, which the solver's
    engine leaves to it (`submission.prm.room`); 0.8 with `swap`."""

    @property
    def share(self) -> float:
        """Of the GPU's memory."""
        if self.gpu_memory_utilization is not None:
            return self.gpu_memory_utilization
        return 0.8 if self.swap else 0.12


class ContestSettings(Recipe):
    """All of `contest.toml`."""

    rules: ContestRules = ContestRules()
    budget: BudgetSettings = BudgetSettings()
    solver: SolverSettings = SolverSettings()
    team: Team = Team()
    engine: EngineSettings = EngineSettings()
    prm: PrmSettings = PrmSettings()
    sandbox: SandboxSettings = SandboxSettings()
    supervision: SupervisionSettings = SupervisionSettings()

    @model_validator(mode="after")
    def _can_swap(self) -> Self:
        if not self.prm.swap:
            return self
        for name, kind in (("engine.kind", self.engine.kind), ("prm.engine", self.prm.engine)):
            if kind != "vllm":
                raise ValueError(
                    f"prm.swap needs {name} = 'vllm', not {kind!r}: other engines cannot give a GPU's memory "
                    "back and take it again"
                )
        if not self.supervision.enabled:
            raise ValueError(
                "prm.swap needs supervision.enabled = true: an engine that does not wake must be started anew"
            )
        return self

    @property
    def served(self) -> EngineSettings:
        """How the solver's engine is started: able to sleep where it takes turns with the PRM."""
        return self.engine.model_copy(update={"sleep_mode": True}) if self.prm.swap else self.engine


def profile_path(name: str) -> Path:
    """Path of a shipped profile; an unknown name is a ValueError naming the shipped ones."""
    folder = Path(__file__).parent / "profiles"
    path = folder / f"{name}.toml"
    names = sorted(item.stem for item in folder.glob("*.toml"))
    if name not in names:
        raise ValueError(f"no contest profile {name!r}; shipped profiles: {', '.join(names)}")
    return path
