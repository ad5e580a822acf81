"""Import time, load time and peak memory, each measured in a process of its own.

Memory: embed 64 passages of 128 tokens and generate 64 tokens, by one GEM model, and by the usual
two: the same LLM in the same dtype through transformers, all-MiniLM-L6-v2 beside it.
"""

from __future__ import annotations

import statistics
import subprocess
import sys

from common import arguments, show

PEAK = "import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
IMPORT = "import time; t = time.perf_counter(); import gem_rag; print(time.perf_counter() - t)"
LOAD = """
import time
t = time.perf_counter()
from gem_rag import GemModel
GemModel.from_pretrained(dtype="float32")
print(time.perf_counter() - t)
"""
ONE = f"""
import json, sys
from gem_rag import GemModel
model = GemModel.from_pretrained(dtype="float32")
texts = json.load(open(sys.argv[1]))
model.embed_documents(texts)
model.generate(texts[0], max_new_tokens=64)
{PEAK}
"""
TWO = f"""
import json, sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from gem_rag.checkpoints.embedded import embedded_base
from gem_rag_train.evaluation import minilm
folder = embedded_base()
llm = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
tokenizer = AutoTokenizer.from_pretrained(folder)
embed = minilm()
texts = json.load(open(sys.argv[1]))
embed(texts)
messages = [{{"role": "user", "content": texts[0]}}]
ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")
with torch.inference_mode():
    llm.generate(**ids, max_new_tokens=64, do_sample=False)
{PEAK}
"""


def measured(code: str, *args: str, repeats: int = 1) -> float:
    """The number a fresh process prints; the median of several."""
    found = []
    for _ in range(repeats):
        result = subprocess.run(
            [sys.executable, "-c", code, *args], capture_output=True, text=True, check=True
        )
        found.append(float(result.stdout.split()[-1]))
    return statistics.median(found)


def main() -> None:
    import json
    import tempfile
    from pathlib import Path

    options = arguments(__doc__).parse_args()
    from common import text_of

    from gem_rag.model import GemModel

    model = GemModel.from_pretrained(dtype="float32")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "texts.json"
        file.write_text(json.dumps([text_of(model, 128, i * 9) for i in range(64)]))
        one = measured(ONE, str(file))
        two = measured(TWO, str(file))
    show(
        {
            "import gem_rag, s": measured(IMPORT, repeats=5),
            "load the default model from cache (imports included), s": measured(LOAD, repeats=3),
            "peak memory, one GEM model, MB": one,
            "peak memory, LLM and all-MiniLM-L6-v2, MB": two,
            "memory: ratio": one / two,
        },
        options.json,
    )


if __name__ == "__main__":
    main()
