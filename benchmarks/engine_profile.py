"""Where the engine's time goes: torch's profiler over steps of one row, of eight, and embedding."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from engine_work import PROMPTS, passages
from speed_report import markdown, put_into_docs
from torch.profiler import ProfilerActivity, profile

from gem_rag.model import GemModel

STEPS, ROWS = 32, 14


def profiled(work: Callable[[], object]) -> Mapping[str, float]:
    """The part of the time that each operation took itself, the largest first.

    The engine's thread is another, so all threads are watched.
    """
    from torch._C._profiler import _ExperimentalConfig

    config = _ExperimentalConfig(profile_all_threads=True)
    with profile(activities=[ProfilerActivity.CPU], experimental_config=config) as watched:
        work()
    took = {event.key: event.self_cpu_time_total for event in watched.key_averages()}
    whole = sum(took.values())
    return {key: took[key] / whole for key in sorted(took, key=lambda key: -took[key])}


def decoding(model: GemModel, rows: int) -> Mapping[str, float]:
    """Some steps of so many rows, whose prompts have been run before."""
    streams = [model.stream(prompt, max_new_tokens=4 * STEPS) for prompt in PROMPTS[:rows]]

    def steps(count: int) -> None:
        for _ in range(count):
            for stream in streams:
                next(stream)

    steps(1)
    found = profiled(lambda: steps(STEPS))
    for stream in streams:
        stream.close()
    return found


def profiles(dtype: str, count: int) -> Mapping[str, Mapping[str, float]]:
    """All three, in one format."""
    model = GemModel.from_pretrained(dtype=dtype)
    texts = passages(count)
    model.embed_documents(passages(8, seed=1))
    return {
        f"{dtype}, one row": decoding(model, 1),
        f"{dtype}, 8 rows": decoding(model, 8),
        f"{dtype}, embedding": profiled(lambda: model.embed_documents(texts, show_progress=False)),
    }


def table(columns: Mapping[str, Mapping[str, float]]) -> str:
    """The operations that took most anywhere, a column for each profile, in percent."""
    names = {name for column in columns.values() for name in column}
    most = sorted(names, key=lambda name: -max(of.get(name, 0) for of in columns.values()))[:ROWS]
    rows = [[f"`{name}`", *(f"{of.get(name, 0):.0%}" for of in columns.values())] for name in most]
    return markdown(["the operation itself, of all time", *columns], rows)


def show(dtypes: Sequence[str], count: int, *, docs: bool) -> None:
    """Print it, and write it into the page of the docs if that is asked for."""
    text = table({name: of for dtype in dtypes for name, of in profiles(dtype, count).items()})
    print(text)
    if docs:
        put_into_docs("profile", text)
