"""`seedtalk tune`: the weights of the blend, fit on a development benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from seedtalk.errors import InputError
from seedtalk.workspace import input_option, params_option


@click.command()
@params_option
@click.argument("benchmarks", metavar="BENCHMARK...", nargs=-1, required=True)
@click.option("--student", metavar="STUDENT-TUNING", help="Join this student; else signals only.")
@click.option(
    "--signals",
    metavar="NAME[,NAME...]",
    help="The signals that may weigh; all by default.",
)
@click.option(
    "--l2",
    type=click.FloatRange(min=0.0),
    default=1.0,
    show_default=True,
    help="Penalty on the weights of the features scaled to standard deviation 1.",
)
@click.option("--folds", type=click.IntRange(min=2), default=5, show_default=True)
@input_option("conversations", "artifacts/conversations.parquet", "Written by ingest.")
@input_option("items", "artifacts/items.parquet", "The catalogue, written by ingest.")
def tune(
    params: Any,
    benchmarks: tuple[str, ...],
    student: str | None,
    signals: str | None,
    l2: float,
    folds: int,
    conversations: Path,
    items: Path,
) -> None:
    """Fit the weights of the blend on each BENCHMARK together and print them.

    They are development benchmarks: one of `benchmarks`, which the report shows, is refused. Their
    signals and the student's scores are written by `python stages/baseline.py --benchmark
    BENCHMARK` and `python stages/evaluate.py --benchmark BENCHMARK --student ... --tuning ...`.

    The tables hold recall of each signal and of the blends, and by how much the blend is ahead of
    each; blends are cross-fitted: a conversation is ranked by weights that were fit without it. The
    weights printed are fit on all of it.
    """
    from seedtalk.evaluation import blending, protocols
    from seedtalk.records import SIGNALS, read_table

    for benchmark in benchmarks:
        if benchmark in params.benchmarks:
            raise InputError(
                f"'{benchmark}' is one of params.benchmarks, which are reported: weights chosen "
                "on it would flatter them. Tune on a benchmark kept for development, such as "
                "redial-dev"
            )
        if benchmarks.count(benchmark) > 1:
            raise InputError(f"'{benchmark}' is named twice; its conversations would count double")
    chosen = _chosen(signals, SIGNALS)
    if student is not None:
        chosen = (blending.STUDENT, *chosen)
    talk, catalogue = read_table(conversations, "conversations"), read_table(items, "items")
    posed, values = {}, {}
    for benchmark in benchmarks:
        asked = protocols.queries(talk, benchmark, catalogue, params.evaluate, params.seed)
        priors = _made(Path(f"artifacts/priors/{benchmark}.parquet"), "baseline", benchmark)
        told = blending.read_signals(priors, asked)
        scores = None
        if student is not None:
            pools = Path(f"artifacts/pools/{student}-{benchmark}.parquet")
            scores = blending.read_student(_made(pools, "evaluate", benchmark), asked)
        posed[benchmark], values[benchmark] = asked, blending.joined(told, scores)
    found = blending.tune(
        posed,
        values,
        chosen,
        l2=l2,
        fold_count=folds,
        cutoffs=params.evaluate.cutoffs,
        resamples=params.evaluate.bootstrap,
        seed=params.seed,
    )
    for benchmark, asked in posed.items():
        count = len({query.conversation_id for query in asked})
        click.echo(f"{benchmark}: {len(asked)} queries of {count} conversations\n")
        click.echo(_table(found.recalls[benchmark], params.evaluate.cutoffs))
        click.echo("\nthe blend is ahead of each by\n")
        click.echo(_table(found.leads[benchmark], params.evaluate.cutoffs))
        click.echo("")
    click.echo(
        f"Blends cross-fitted in {folds} folds; log-likelihood a target {found.likelihood:.4f} "
        f"(chance {found.chance:.4f}).\n"
    )
    click.echo(_yaml(found))
    flags = " ".join(f"-S blend.{name}={weight:g}" for name, weight in found.weights.items())
    click.echo(f"\n{flags}")


def _chosen(signals: str | None, known: tuple[str, ...]) -> tuple[str, ...]:
    if signals is None:
        return known
    names = [name.strip() for name in signals.split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise InputError(f"--signals: '{name}' is none of {', '.join(known)}")
    if not names:
        raise InputError(f"--signals: name at least one of {', '.join(known)}")
    return tuple(name for name in known if name in names)


def _made(path: Path, stage: str, benchmark: str) -> Path:
    if not path.is_file():
        more = " --student ... --tuning ..." if stage == "evaluate" else ""
        raise InputError(
            f"{path}: no such file; run `python stages/{stage}.py --benchmark {benchmark}{more}`"
        )
    return path


def _table(recalls: Any, cutoffs: tuple[int, ...]) -> str:
    names = [f"recall@{k}" for k in cutoffs]
    rows = [["", *names]]
    for system, metrics in recalls.items():
        cells = [metrics[name] for name in names]
        rows.append(
            [system, *(f"{c['mean']:.3f} ({c['low']:.3f} to {c['high']:.3f})" for c in cells)]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _interval(told: Any) -> str:
    return f"{told['mean']:.3f} ({told['low']:.3f} to {told['high']:.3f})"


def _yaml(found: Any) -> str:
    width = max(map(len, found.weights))
    lines = ["blend:"]
    for name, weight in found.weights.items():
        line = f"  {name}: {weight:g}".ljust(width + 14)
        share = found.scaled[name]
        lines.append(f"{line}# {share:+.2f} a standard deviation" if share else line.rstrip())
    return "\n".join(lines)
