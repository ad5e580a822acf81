"""What a kept reading saves: the first token after 1,000 tokens, and ranking ten passages."""

from __future__ import annotations

from common import arguments, seconds, show, text_of

from gem_rag.model import GemModel

QUESTION = "\n\nAnswer in one sentence.\nQuestion: what is this text about?"


def main() -> None:
    options = arguments(__doc__).parse_args()
    model = GemModel.from_pretrained(dtype="float32")
    long = text_of(model, 1000)
    (reading,) = model.read([long], max_length=1000)

    def first_token(prompt: str, after) -> None:
        stream = model.stream(prompt, after=after, max_new_tokens=2)
        next(stream)
        stream.close()

    # Another beginning each time: the engine would not run the same one again.
    beginnings = iter("ABCDEFGH")
    text = seconds(lambda: first_token(next(beginnings) + long + QUESTION, None))
    kept = seconds(lambda: first_token(QUESTION, reading))
    passages = [text_of(model, 256, i * 11) for i in range(10)]
    readings = model.read(passages)
    query = "which of these places has the oldest university in the country"
    rank_text = seconds(lambda: model.rank(query, passages), repeats=3)
    rank_kept = seconds(lambda: model.rank(query, readings), repeats=3)
    assert [r.index for r in model.rank(query, passages)] == [
        r.index for r in model.rank(query, readings)
    ]
    show(
        {
            "first token from 1,000 tokens of text, s": text,
            "first token after their reading, s": kept,
            "first token: times sooner": text / kept,
            "rank 10 x 256 tokens from text, s": rank_text,
            "rank them from readings, s": rank_kept,
            "ranking: times faster": rank_text / rank_kept,
        },
        options.json,
    )


if __name__ == "__main__":
    main()
