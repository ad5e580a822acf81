"""Commands that make and measure checkpoints. No other file knows trainers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from gem_rag.cli.console import Json, Model, out, print_json, print_skipped
from gem_rag.errors import MissingExtraError

if TYPE_CHECKING:
    from gem_rag_train import TrainedSkill
    from gem_rag_train.adapt import Adapted
    from gem_rag_train.evaluation import Report


def train(
    recipe: Annotated[str, typer.Argument(help="A bundled recipe's name or a .toml file.")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="key=value over the recipe; repeatable.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an interrupted run.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make a GEM checkpoint by a recipe."""
    try:
        from gem_rag_train import TrainConfig
        from gem_rag_train import train as run
    except ImportError as error:
        raise MissingExtraError("training", "train") from error
    pairs = dict(key_value(s) for s in settings or [])
    folder = run(TrainConfig.from_recipe(recipe, pairs), resume=resume)
    if os.environ.get("RANK", "0") != "0":
        return  # one of several processes; the first one tells
    if as_json:
        print_json({"checkpoint": str(folder)})
    else:
        out.print(f"checkpoint: {escape(str(folder))}")


def train_skill(
    name: Annotated[str, typer.Argument(help="What the skill is asked for by, such as answer.")],
    data: Annotated[list[str], typer.Argument(help="JSONL files, bundled:answer or bundled:rank.")],
    output: Annotated[
        Path, typer.Option("--output", help="Checkpoint the skill goes into; may exist.")
    ],
    model: Model = None,
    init: Annotated[
        str | None,
        typer.Option("--init", help="A skill to go on from: of the model, or a folder."),
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Of training; without it by the rows.")
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option("--recipe", help="A .toml file of settings.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="key=value over the settings; repeatable.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an interrupted run.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Teach a checkpoint to answer from passages, or to rank them, from rows of yours."""
    try:
        from gem_rag_train import SkillTraining
        from gem_rag_train import train_skill as run
    except ImportError as error:
        raise MissingExtraError("training", "train") from error
    over = dict(key_value(s) for s in settings or [])
    if steps is not None:
        over["steps"] = str(steps)
    chosen = SkillTraining.for_data(data, over, recipe)
    trained = run(name, data, output=output, model=model, settings=chosen, init=init, resume=resume)
    if as_json:
        print_json(trained.to_dict())
    else:
        print_trained(trained)


def print_trained(trained: TrainedSkill) -> None:
    """What was measured before and after, and how the skill is used."""
    from rich.table import Table

    if trained.after:
        table = Table("", "untrained", "trained")
        for name, value in trained.after.items():
            before = trained.before.get(name)
            shown = "" if before is None else f"{before:.3f}"
            table.add_row(name.removeprefix("heldout_"), shown, f"{value:.3f}")
        out.print(table)
        out.print(f"on {trained.heldout_rows} rows about passages held out from training")
    where = escape(str(trained.checkpoint))
    out.print(f"skill {escape(trained.name)} in checkpoint: {where}")


Stsb = Annotated[Path | None, typer.Option("--stsb", help="CSV of sentence1,sentence2,score.")]
Only = Annotated[str, typer.Option("--only", help="Parts, with commas between.")]
Quick = Annotated[bool, typer.Option("--quick", help="Small samples: minutes, not hours.")]
Paragraphs = Annotated[int | None, typer.Option("--paragraphs", help="Of each retrieval set.")]
Questions = Annotated[int | None, typer.Option("--questions", help="Of each retrieval set.")]
Ranked = Annotated[
    int | None, typer.Option("--ranked", help="Questions of each set asked every way.")
]
Answerable = Annotated[
    int | None,
    typer.Option("--answerable", help="Questions asked with their paragraph in and taken out."),
]
Labelled = Annotated[
    int | None, typer.Option("--labelled", help="Texts of each set to classify and cluster.")
]
Lm = Annotated[int | None, typer.Option("--lm", help="Questions of each multiple-choice task.")]
Passages = Annotated[int | None, typer.Option("--passages", help="For perplexity.")]
Answers = Annotated[
    int | None, typer.Option("--answers", help="Questions answered with the passage given.")
]
Rag = Annotated[int | None, typer.Option("--rag", help="Questions answered end to end.")]
Followups = Annotated[
    int | None, typer.Option("--followups", help="Questions of conversations, of each kind.")
]
Mteb = Annotated[
    list[str] | None,
    typer.Option("--mteb", help="An mteb task, a local folder or CSV; repeatable."),
]
MeanPooled = Annotated[
    bool,
    typer.Option(
        "--mean-pooled/--no-mean-pooled",
        help="The base mean-pooled too: takes as long as the checkpoint.",
    ),
]
EvalDtype = Annotated[str, typer.Option("--dtype", help="Number format of the checkpoint.")]
MaxLength = Annotated[int | None, typer.Option("--max-length", help="Tokens of a text that count.")]


def eval_(
    model: Model = None,
    output: Annotated[Path, typer.Option("--output", help="Folder of the report.")] = Path("eval"),
    stsb: Stsb = None,
    only: Only = "",
    quick: Quick = False,
    paragraphs: Paragraphs = None,
    questions: Questions = None,
    ranked: Ranked = None,
    answerable: Answerable = None,
    labelled: Labelled = None,
    lm: Lm = None,
    passages: Passages = None,
    answers: Answers = None,
    rag: Rag = None,
    followups: Followups = None,
    mteb: Mteb = None,
    mean_pooled: MeanPooled = True,
    max_length: MaxLength = None,
    dtype: EvalDtype = "float32",
    seed: Annotated[int, typer.Option("--seed", help="Draws the samples.")] = 1,
    as_json: Json = False,
) -> None:
    """Measure a checkpoint beside its base and all-MiniLM-L6-v2."""
    try:
        from gem_rag_train.evaluation import TABLE_FILE, EvalSettings, evaluate
    except ImportError as error:
        raise MissingExtraError("evaluation", "eval") from error
    sizes = {
        "paragraphs": paragraphs,
        "questions": questions,
        "ranked": ranked,
        "answerable": answerable,
        "labelled": labelled,
        "lm": lm,
        "passages": passages,
        "answers": answers,
        "rag": rag,
        "followups": followups,
        "max_length": max_length,
    }
    given = {name: size for name, size in sizes.items() if size is not None}
    settings = (EvalSettings.quick if quick else EvalSettings)(
        only=tuple(part.strip() for part in only.split(",") if part.strip()),
        stsb=stsb,
        mteb=tuple(mteb or ()),
        dtype=dtype,
        mean_pooled=mean_pooled,
        seed=seed,
        **given,
    )
    report = evaluate(model, output, settings)
    if as_json:
        print_json(report.to_dict())
    else:
        print_scores(report)
        out.print(f"{output / TABLE_FILE} has intervals, notes and plots")


def print_scores(report: Report) -> None:
    """Every system's scores side by side."""
    from rich.table import Table

    systems = report.systems
    table = Table("", "", *systems)
    for m in report.measures:
        scores = [f"{m.scores[s].value:.3f}" if s in m.scores else "" for s in systems]
        table.add_row(escape(m.task), m.metric, *scores)
    out.print(table)


def adapt(
    paths: Annotated[list[Path], typer.Argument(help="Files or folders of your own.")],
    output: Annotated[Path, typer.Option("--output", help="Folder of the new checkpoint.")],
    model: Model = None,
    minutes: Annotated[
        float | None, typer.Option("--minutes", min=0.1, help="Of training.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Of training, instead of minutes.")
    ] = None,
    questions_per_chunk: Annotated[
        int, typer.Option("--questions-per-chunk", min=1, help="Questions the model writes.")
    ] = 4,
    seed: Annotated[int, typer.Option("--seed", help="Of everything drawn by chance.")] = 0,
    as_json: Json = False,
) -> None:
    """Make a checkpoint that finds things in your documents better, without labels.

    Written only if questions held out from training say that it is better. Made again after an
    interruption, the command goes on where it was.
    """
    if minutes is not None and steps is not None:
        raise typer.BadParameter("give --minutes or --steps, not both")
    try:
        from gem_rag_train.adapt import adapt as run
    except ImportError as error:
        raise MissingExtraError("adapting to documents", "train") from error
    result = run(
        paths,
        output,
        model=model,
        minutes=minutes,
        steps=steps,
        questions_per_chunk=questions_per_chunk,
        seed=seed,
    )
    if as_json:
        print_json(result.to_dict())
    else:
        print_skipped(result.skipped)
        print_adapted(result)


def print_adapted(result: Adapted) -> None:
    """The before/after table and what to use from now on."""
    from rich.table import Table

    from gem_rag_train.adapt import CONFIDENCE

    verdict, held_out = result.verdict, result.held_out_chunks
    table = Table("", "before", "after")
    for name, row in (("recall@1", "recall1"), ("nDCG@10", "ndcg10")):
        table.add_row(name, *(f"{getattr(v, row):.3f}" for v in (verdict.before, verdict.after)))
    out.print(table)
    out.print(
        f"{result.held_out_questions} questions about {held_out} chunks held out from training, "
        f"among all {result.chunks} chunks; nDCG@10 {verdict.gain:+.3f} a chunk, between "
        f"{verdict.low:+.3f} and {verdict.high:+.3f} ({CONFIDENCE:.0%} interval)"
    )
    if result.kept:
        out.print(f"better: use --model {escape(result.checkpoint)}, and index again with it")
    else:
        out.print(
            "[yellow]not better[/yellow] beyond chance, so nothing was written: keep "
            f"{escape(result.checkpoint)} (the attempt is in {escape(str(result.candidate))})"
        )


def key_value(text: str) -> tuple[str, str]:
    """``key=value`` as a pair."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise typer.BadParameter(f"--set {text!r}; expected key=value")
    return key, value
