"""What the contest runtime costs over a plain script: same prompts, same seeds, same tokens, one run.

Two engines are loaded side by side: in one process `vllm.LLM.generate` and a plurality of the boxed answers,
and in others a whole contest (gateway, server, votes, journal, streaming). They take turns problem by
problem, the first of the two changing each time, so that a machine whose speed drifts slows both alike. The
answers' range admits no answer, so that no vote ends a problem early and both sides draw every token. With a
team that has tools (`--team tools`) the sandbox stands by; the small model hardly ever calls it, and how
often it did is told.

    python -m benchmarks.overhead --samples 8 --max-tokens 128 [--team tools] [--python PATH]
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.peers.process import SETTLE, Peer, Python, open_peer
from benchmarks.shared import ROOT
from submission.agents.prompts import solver_chat
from submission.agents.team import Role, Team, load_team
from submission.cli import run
from submission.engines.tokenizer import ChatTokenizer
from submission.engines.vllm_engine import engine_arguments, prepare_environment
from submission.files import write_text
from submission.gateway.rehearsal import Gateway
from submission.journal import AnswerLine, SampleLine, read_journal
from submission.local import Outputs, server_process
from submission.offline import go_offline
from submission.problems import Problem, load_problems
from submission.settings import ContestRules, EngineSettings, SolverSettings

GPU_SHARE = 0.4
"""Each engine's part of a GPU's memory: both are there at the same time."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
console = Console()


@dataclass(frozen=True)
class Pair:
    """One problem on both sides: seconds and completion tokens."""

    bare_seconds: float
    bare_tokens: int
    contest_seconds: float
    contest_tokens: int


@app.command()
def overhead(
    model: Annotated[Path | None, typer.Option(help="Checkpoint. Default: the kit's small model.")] = None,
    problems: Annotated[Path, typer.Option(help="Problems file.")] = ROOT
    / "kit"
    / "data"
    / "sample_problems.csv",
    samples: Annotated[int, typer.Option(help="Samples a problem.")] = 8,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", help="Completion tokens a sample at most.")
    ] = 128,
    team: Annotated[str | None, typer.Option(help="Shipped team, or a team's file, of one role.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Problems at most.")] = None,
    python: Python = None,
    out: Annotated[Path | None, typer.Option("--json", help="Write the figures here as well.")] = None,
) -> None:
    """Time a contest against bare vLLM and print the ratio."""
    if model is None:
        from kit.models import default_model

        model = default_model()
    loaded = load_problems(problems, ContestRules())[:limit]
    role, model = only_role(team), model.resolve()
    with (
        tempfile.TemporaryDirectory(prefix="aimo-overhead-") as folder,
        open_peer(python or Path(sys.executable), "majority", _peer_settings(model)) as peer,
    ):
        pairs, calls = measure(
            model, loaded, samples, max_tokens, Path(folder), team=team, role=role, peer=peer
        )
    figures: dict[str, Any] = {**summary(pairs), "team": team or "solo", "calls": calls}
    figures["versions"] = peer.versions
    _print(pairs, figures)
    if out is not None:
        write_text(out, json.dumps(figures, indent=2) + "\n")


def only_role(team: str | None) -> Role:
    """The one role of a team, whose prompt the bare engine gets too.

    Raises:
        ValueError: there is no such team, it has more roles, or its tool format changes the prompt.
    """
    roles = (Team() if team is None else load_team(team)).roles
    if len(roles) != 1 or roles[0].tools not in {"none", "fenced"}:
        raise ValueError(f"team {team!r}: the bare engine can be asked as one role without a tool template")
    return roles[0]


def measure(
    model: Path,
    problems: Sequence[Problem],
    samples: int,
    max_tokens: int,
    folder: Path,
    *,
    team: str | None,
    role: Role,
    peer: Peer,
) -> tuple[list[Pair], int]:
    """Both sides in turn over all problems; the first problem warms both up and is not counted.

    Returns:
        The pairs, and how often the contest's samples called a tool.
    """
    settings = [
        *("rules.answer_min=99998", "rules.default_answer=99998", "rules.time_limit=36000"),
        *(f"solver.num_agents={samples}", f"solver.max_tokens={max_tokens}", "budget.cap=3600"),
        *("solver.temperature=1.0", "solver.top_p=1.0", "engine.max_model_len=2048"),
        *(
            "engine.max_num_seqs=64",
            "engine.cpu_kv_cache_gib=1",
            f"engine.gpu_memory_utilization={GPU_SHARE}",
            f"rules.expected_problems={len(problems) + 1}",
        ),
    ]
    options = [part for setting in settings for part in ("--set", setting)]
    options += [] if team is None else ["--team", team]
    outputs = Outputs.beside(folder / "submission.parquet")
    socket = folder / "s"
    pairs: list[Pair] = []
    environment = {"MATH_MODEL_PATH": str(model)}
    tokenizer = ChatTokenizer(model)
    with server_process(options, outputs, socket, fresh=True, extra=environment) as server:
        gateway = Gateway(
            socket,
            ContestRules(),
            call_seconds=3600,
            alive=lambda: "" if server.poll() is None else outputs.log.read_text(errors="replace")[-2000:],
        )
        rows = gateway.run([problems[0], *problems])
        next(rows)  # the model loads and warms up
        _ask(peer, tokenizer, role, problems[0].text, samples, max_tokens)
        for number, problem in enumerate(track(problems, console=console, description="problems")):
            # Asking the contest's row is what makes the gateway send the problem.
            time.sleep(SETTLE)
            if number % 2:
                row = next(rows)
                time.sleep(SETTLE)
                reply = _ask(peer, tokenizer, role, problem.text, samples, max_tokens)
            else:
                reply = _ask(peer, tokenizer, role, problem.text, samples, max_tokens)
                time.sleep(SETTLE)
                row = next(rows)
            tokens = _tokens_of_last(outputs.journal)
            pairs.append(Pair(reply["seconds"], reply["tokens"], row.seconds, tokens))
        gateway.close()
    calls = sum(len(line.calls) for line in read_journal(outputs.journal).of(SampleLine))
    return pairs, calls


def _tokens_of_last(journal: Path) -> int:
    return read_journal(journal).of(AnswerLine)[-1].tokens


def _ask(
    peer: Peer, tokenizer: ChatTokenizer, role: Role, text: str, samples: int, max_tokens: int
) -> dict[str, Any]:
    chat = solver_chat(role, SolverSettings().system_prompt, text)
    request = {"chat": [asdict(turn) for turn in chat], "samples": samples, "max_tokens": max_tokens}
    reply: dict[str, Any] = peer.ask(request)
    if tuple(reply["prompt"]) != tuple(tokenizer.encode_chat(chat)):
        raise ValueError("the two sides put different prompts to the model: their times mean nothing")
    return reply


def _peer_settings(model: Path) -> dict[str, Any]:
    """The contest's own arguments of the engine."""
    settings = EngineSettings(
        max_model_len=2048, max_num_seqs=64, cpu_kv_cache_gib=1, gpu_memory_utilization=GPU_SHARE
    )
    go_offline()
    prepare_environment(settings)
    arguments = engine_arguments(model, settings, 2048)
    return {
        "arguments": {
            name: value
            for name, value in arguments.items()
            if name not in {"stream_interval", "enable_log_requests"}  # of the asynchronous engine only
        }
    }


def summary(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Totals, and the ratio of wall times at equal tokens (each side's seconds a token)."""
    bare, contest = sum(p.bare_seconds for p in pairs), sum(p.contest_seconds for p in pairs)
    bare_tokens, contest_tokens = sum(p.bare_tokens for p in pairs), sum(p.contest_tokens for p in pairs)
    each = [(p.contest_seconds / p.contest_tokens) / (p.bare_seconds / p.bare_tokens) for p in pairs]
    return {
        "problems": len(pairs),
        "bare_seconds": bare,
        "bare_tokens": bare_tokens,
        "contest_seconds": contest,
        "contest_tokens": contest_tokens,
        "ratio": (contest / contest_tokens) / (bare / bare_tokens),
        "median_ratio": statistics.median(each),
        "ratios": each,
        "same_tokens": sum(pair.bare_tokens == pair.contest_tokens for pair in pairs),
    }


def _print(pairs: Sequence[Pair], figures: dict[str, Any]) -> None:
    table = Table(title="Contest against bare vLLM")
    for name in ("problem", "bare s", "tokens", "contest s", "tokens", "ratio at equal tokens"):
        table.add_column(name, justify="right")
    for number, pair in enumerate(pairs, 1):
        ratio = (pair.contest_seconds / pair.contest_tokens) / (pair.bare_seconds / pair.bare_tokens)
        table.add_row(
            *(str(number), f"{pair.bare_seconds:.2f}", str(pair.bare_tokens)),
            *(f"{pair.contest_seconds:.2f}", str(pair.contest_tokens), f"{ratio:.3f}"),
        )
    console.print(table)
    console.print(
        f"all: bare {figures['bare_seconds']:.1f} s, contest {figures['contest_seconds']:.1f} s, "
        f"[bold]ratio {figures['ratio']:.3f}[/], median {figures['median_ratio']:.3f} (aim: 1.05); "
        f"{figures['calls']} tool calls",
        highlight=False,
    )


if __name__ == "__main__":
    run(app)
