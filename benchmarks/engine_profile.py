"""Where the engine's time goes: torch's profiler over steps of one row, of eight, and embedding."""

from __future__ import annotations

from collections.abc import Callable

from engine_work import PROMPTS, passages
from torch.profiler import ProfilerActivity, profile

from gem_rag.model import GemModel

STEPS, ROWS = 32, 14


def profiled(title: str, work: Callable[[], object]) -> None:
    """Print what took most; the engine's thread is another, so all threads are watched."""
    from torch._C._profiler import _ExperimentalConfig

    config = _ExperimentalConfig(profile_all_threads=True)
    with profile(activities=[ProfilerActivity.CPU], experimental_config=config) as watched:
        work()
    print(f"\n{title}")
    averages = watched.key_averages()
    print(averages.table(sort_by="self_cpu_time_total", row_limit=ROWS, max_name_column_width=45))


def decode(model: GemModel, rows: int, title: str) -> None:
    """Some steps of so many rows, whose prompts have been run before."""
    streams = [model.stream(prompt, max_new_tokens=4 * STEPS) for prompt in PROMPTS[:rows]]

    def steps(count: int) -> None:
        for _ in range(count):
            for stream in streams:
                next(stream)

    steps(1)
    profiled(title, lambda: steps(STEPS))
    for stream in streams:
        stream.close()


def show(dtype: str, count: int) -> None:
    """All three, in one format."""
    model = GemModel.from_pretrained(dtype=dtype)
    texts = passages(count)
    model.embed_documents(passages(8, seed=1))
    decode(model, 1, f"{dtype}: {STEPS} steps of one row")
    decode(model, 8, f"{dtype}: {STEPS} steps of 8 rows")
    title = f"{dtype}: embedding {count} passages"
    profiled(title, lambda: model.embed_documents(texts, show_progress=False))
