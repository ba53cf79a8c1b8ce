"""The recipe of `python -m kit.train grpo`. Its defaults train a distilled 32B model on OpenR1-Math."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from kit.grpo.addresses import split_address
from kit.losses.kl import KLKind
from kit.rewards.recipe import RewardSection
from kit.training.recipe import AssumptionSection, MicroSection, ModelSection, OptimizerSection, TrainRecipe
from submission.recipes import Recipe
from submission.settings import EngineSettings, SandboxSettings, SolverSettings

_CONTEST = SolverSettings()


class ProblemSection(Recipe):
    """Problems with verifiable answers, through `kit.data`."""

    path: str = "open-r1/OpenR1-Math-220k"
    """Hub name, or local file (jsonl, json, csv, parquet)."""
    split: str = "train"
    columns: dict[str, str] = Field(default_factory=dict)
    """Field of a record = column of the set, where the set's own names are not known to the reader."""
    validation: str = ""
    """Set to evaluate on; empty holds out `validation_share` of the problems."""
    validation_share: float = Field(default=0.0, ge=0, lt=1)
    limit: int = Field(default=0, ge=0)
    """Take the first so many records; 0 takes all."""
    system_prompt: str = _CONTEST.system_prompt
    """The contest's own, so that what is trained is what will run."""
    user_prompt: str = "{problem}"
    min_pass_rate: float = Field(default=0.0, ge=0, le=1)
    """Problems whose recorded pass rate (`Record.pass_rate`) is lower are left out."""
    max_pass_rate: float = Field(default=1.0, ge=0, le=1)
    """Problems whose recorded pass rate is higher are left out."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.user_prompt.count("{problem}") != 1:
            raise ValueError(f"user_prompt {self.user_prompt[:80]!r} must hold {{problem}} exactly once")
        if self.min_pass_rate > self.max_pass_rate:
            raise ValueError(
                f"min_pass_rate {self.min_pass_rate} is above max_pass_rate {self.max_pass_rate}"
            )
        return self


class GrpoBatchSection(MicroSection):
    """What one step samples and trains on. A step is one batch of roll-outs, whatever is done with it."""

    batch_size: int = Field(default=16, ge=1)
    """Prompts a step, over all ranks together."""
    group_size: int = Field(default=16, ge=2)
    """Completions a prompt."""
    num_episodes: int = Field(default=1000, ge=1)
    """Steps of the run."""
    epochs: int = Field(default=1, ge=1)
    """Times that a batch of roll-outs is gone through."""
    minibatches: int = Field(default=1, ge=1)
    """Optimizer steps that each of these is cut into, by whole completions."""
    share_prompts: bool = True
    """Put a prompt through the model once for all of its completions in a micro-batch; it changes no
    gradient. Left alone where `model.attention` is `sdpa`."""


class ToolSection(Recipe):
    """Completions in rounds of thought, code and its output; see `submission.agents.tool_writer`."""

    rounds: int = Field(default=4, ge=1)
    """Code blocks that are run at most."""
    timeout: float = Field(default=10.0, gt=0)
    """Seconds a code block."""
    output_chars: int = Field(default=2_000, ge=20)
    """Of one output at most."""
    sandbox: SandboxSettings = SandboxSettings()


class RolloutSection(Recipe):
    """How completions are drawn."""

    sampler: Literal["local", "vllm", "served"] = "vllm"
    """`vllm` is the contest's engine in a process of its own, beside rank 0; `served` the same on other nodes
    or cores (`python -m kit.grpo.serve`); `local` decodes with the trainer's own weights, on every rank,
    which is faster for models of some million parameters."""
    servers: tuple[str, ...] = ()
    """Of `served`: addresses, host:port. Requests are divided over them."""
    secret_file: str = ""
    """Of `served`: file with the secret that trainer and servers share; empty reads AIMO_GRPO_SECRET."""
    transfer: Literal["broadcast", "files"] = "broadcast"
    """Of `served`: how weights travel. `files` needs `transfer_folder`."""
    transfer_folder: str = ""
    """A folder that trainer and servers see under the same path, in memory at best."""
    temperature: float = Field(default=_CONTEST.temperature, gt=0)
    top_p: float = Field(default=_CONTEST.top_p, gt=0, le=1)
    min_p: float = Field(default=_CONTEST.min_p, ge=0, le=1)
    max_completion_tokens: int = Field(default=8192, ge=1)
    refill_rounds: int = Field(default=3, ge=0)
    """Dynamic sampling (DAPO): how often groups without signal (all rewards equal) are replaced by further
    prompts within a step; 0 takes them as they come."""
    overlap: bool = False
    """Draw the next step's completions while this one is trained on, with weights one step old; the ratio of
    policies corrects for it. Needs an engine: not `sampler = "local"`."""
    sync_timeout: float = Field(default=600.0, gt=0)
    """Seconds for the sampler to answer when it is given weights, and for a sign of life while it draws."""
    sleep: bool = True
    """Of `vllm`: give its GPU memory to the trainer between phases, where the platform can (CUDA)."""
    max_failed_share: float = Field(default=0.1, ge=0, le=1)
    """Share of a step's samples that may be lost (by the sampler or a reward) before it is an error."""
    engine: EngineSettings = EngineSettings()
    """Of `sampler = "vllm"`; of `served`, whose servers have their own, `dtype` alone."""
    tools: ToolSection | None = None
    """Let completions run Python; what it printed is no part of the loss. Needs an engine: not
    `sampler = "local"`."""

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        if bool(self.servers) != (self.sampler == "served"):
            raise ValueError('sampler = "served" and servers = ["host:port", ...] go together')
        for address in self.servers:
            split_address(address)
        if twice := [address for address in self.servers if self.servers.count(address) > 1]:
            raise ValueError(f"servers names {twice[0]} twice")
        if self.sampler == "served" and (self.transfer == "files") != bool(self.transfer_folder):
            raise ValueError('transfer = "files" and transfer_folder go together: a folder that all see')
        return self


class PolicySection(Recipe):
    """The loss; sources are in `kit.losses`."""

    kind: Literal["grpo", "bnpo", "dr_grpo", "dapo", "gspo", "cispo"] = "dapo"
    clip_low: float = Field(default=0.2, ge=0)
    clip_high: float = Field(default=0.28, ge=0)
    """Above `clip_low` (DAPO's clip-higher), unlikely tokens may gain more before they are clipped."""
    scale: Literal["group", "batch", "none"] = "group"
    """What advantages are divided by: the std of their group's or the batch's rewards, or nothing."""
    eps: float = Field(default=1e-4, gt=0)
    """Added to that std."""
    kl_coef: float = Field(default=0.0, ge=0)
    """Weight of the divergence from the reference model; 0 loads no reference."""
    kl_kind: KLKind = "k3"
    reference_every: int = Field(default=0, ge=0)
    """Steps after which the model as it is becomes the reference; 0 keeps the first."""
    mismatch: Literal["none", "token", "sequence"] = "token"
    """Truncated importance sampling for what the sampler's probabilities differ by from the trainer's."""
    mismatch_cap: float = Field(default=2.0, ge=1)
    mask_cut_off: bool = True
    """Completions that the length limit cut are left out of the loss (overlong filtering)."""


class CurriculumSection(Recipe):
    """Which prompts come up."""

    revisit: float = Field(default=0.25, gt=0, le=1)
    """Chance that a prompt whose last group was all right or all wrong is taken when its turn comes again."""


class GrpoAssumptionSection(AssumptionSection):
    """What `--dry-run` of GRPO cannot know besides."""

    sampling_tokens_per_second: float = Field(default=0.0, ge=0)
    """Of all engines together; 0 leaves the time of sampling out."""


class GrpoRecipe(TrainRecipe):
    """Everything that a GRPO run depends on."""

    out: Path = Path("runs/grpo")
    model: ModelSection = ModelSection(path="deepseek-ai/DeepSeek-R1-Distill-Qwen-32B")
    batch: GrpoBatchSection = GrpoBatchSection()
    optimizer: OptimizerSection = OptimizerSection(lr=5e-6, schedule="constant")
    data: ProblemSection = ProblemSection()
    rollout: RolloutSection = RolloutSection()
    policy: PolicySection = PolicySection()
    rewards: RewardSection = RewardSection()
    prm: str = ""
    """Process reward model of `rewards.prm`: a folder, or a hub name."""
    curriculum: CurriculumSection = CurriculumSection()
    assume: GrpoAssumptionSection = GrpoAssumptionSection()

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.policy.reference_every and not self.policy.kl_coef:
            raise ValueError("policy.reference_every needs policy.kl_coef above 0: there is no reference")
        if self.rollout.overlap and self.rollout.sampler == "local":
            raise ValueError(
                'rollout.overlap needs rollout.sampler = "vllm" or "served": the trainer is busy itself'
            )
        if self.model.lora is not None and self.model.lora.dropout:
            raise ValueError(
                f"model.lora.dropout={self.model.lora.dropout} must be 0: the policy that is trained must be "
                "the one that is sampled"
            )
        if self.policy.mismatch == "sequence" and (self.rollout.top_p < 1 or self.rollout.min_p > 0):
            raise ValueError(
                'policy.mismatch = "sequence" needs rollout.top_p = 1 and min_p = 0: each token drawn from '
                'fewer makes the weight of its sequence smaller, down to 0; use "token"'
            )
        if bool(self.rewards.prm) != bool(self.prm):
            raise ValueError("rewards.prm and prm go together: a weight, and the model that scores")
        if self.rollout.tools and self.rollout.sampler == "local":
            raise ValueError(
                'rollout.tools needs rollout.sampler = "vllm" or "served", which end a round at its code'
            )
        if self.rollout.max_completion_tokens >= self.batch.max_length:
            raise ValueError(
                f"rollout.max_completion_tokens={self.rollout.max_completion_tokens} leaves no room for a "
                f"prompt in batch.max_length={self.batch.max_length}: lower it"
            )
        return self

    @property
    def optimizer_steps(self) -> int:
        """Of one batch of roll-outs."""
        return self.batch.epochs * self.batch.minibatches

    @property
    def rescored(self) -> bool:
        """Whether the trainer's own log-probabilities are worked out before the first update of a step.

        With one update on fresh samples they are those of the forward pass that is made anyway.
        """
        return self.optimizer_steps > 1 or self.rollout.overlap or self.policy.mismatch == "sequence"
