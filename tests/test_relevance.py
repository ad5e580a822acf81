"""Which passages are chosen: likelihood, words, cosine in one; no more are ranked than needed."""

import numpy as np
import pytest

from gem_rag.compute.ranker import Ranked
from gem_rag.config import RelevanceWeights
from gem_rag.documents import Document
from gem_rag.rag import GemRAG
from gem_rag.rag.question import core
from gem_rag.rag.retrieve import Candidate, Choice

WEIGHTS = RelevanceWeights(words=1.0, cosine=1.0, threshold=0.5)


class Likelihoods:
    """Ranks texts that are numbers: the part of the question's surprise each explains."""

    def __init__(self):
        self.asked = []

    def __call__(self, query, texts, /, *, floor=None):
        self.asked += texts
        shares = [float(text) for text in texts]
        ranked = [Ranked(i, 4 * share, 4 * share - 4) for i, share in enumerate(shares)]
        return sorted(ranked, key=lambda r: -r.score)


def candidates(rows):
    return [Candidate(i, str(share), cosine, word) for i, (share, word, cosine) in enumerate(rows)]


def test_a_rank_score_is_what_is_explained_with_words_and_cosine():
    choice = Choice(rank=Likelihoods(), weights=RelevanceWeights(words=2.0, cosine=0.5))
    (best, other) = choice.best("Who?", candidates([(0.5, 0.25, 0.4), (0.75, None, None)]))
    assert (best.item, best.rank_score) == (0, pytest.approx(0.5 + 0.5 + 0.2))
    assert (other.item, other.rank_score) == (1, pytest.approx(0.75))


def test_without_weights_likelihood_alone_decides():
    rows = [(0.25, 1.0, 1.0), (0.5, 0.0, 0.0)]
    assert [c.item for c in Choice(rank=Likelihoods()).best("Who?", candidates(rows))] == [1, 0]


@pytest.mark.parametrize("k", [1, 3])
def test_ranking_stops_where_the_best_cannot_change_and_loses_nothing(k):
    rng = np.random.default_rng(0)
    saved = 0
    for _ in range(50):
        rows = np.stack([rng.uniform(-0.2, 0.8, 16), *rng.beta(1, 3, (2, 16))], 1)
        rows[:k] = 0.9  # a clear case, as most questions are
        rng.shuffle(rows)
        some, every = Likelihoods(), Likelihoods()
        best = Choice(k=k, rank=some, weights=WEIGHTS).best("Who?", candidates(rows.tolist()))
        all_ = Choice(rank=every, weights=WEIGHTS).best("Who?", candidates(rows.tolist()))
        assert len(every.asked) == 16
        assert best == all_[:k]
        saved += 16 - len(some.asked)
    assert saved > 200


def test_a_blank_question_keeps_the_searchs_order():
    rows = candidates([(0.1, 0.0, 0.2), (0.9, 0.0, 0.1)])
    assert [c.item for c in Choice(rank=Likelihoods(), weights=WEIGHTS).best(" ", rows)] == [0, 1]


@pytest.mark.parametrize(
    ("wordy", "asks"),
    [
        (
            "Good morning, my train arrives at noon and I was wondering, when is the shop open?",
            "When is the shop open?",
        ),
        (
            "hello i am new here and would like to know when the shop is open",
            "When the shop is open",
        ),
        (
            "My kettle broke. I bought it last week. Is there a warranty for kettles?",
            "Is there a warranty for kettles?",
        ),
        ("When is the shop open?", None),
        ("Does the kettle have a lid?", None),
        ("warranty kettle", None),
        ("Thank you very much for all of this, and what?", None),
        ("", None),
    ],
)
def test_what_of_a_wordy_question_asks(wordy, asks):
    assert core(wordy) == asks


def test_a_question_is_looked_for_again_without_the_words_around_it(gem):
    rag = GemRAG(gem)
    rag.add(Document("The shop is open from nine to five.", "shop.md"))
    found = rag.retrieve("When is the shop open?", k=1)[0].confidence
    wordy = "Good morning, my train arrives at noon and I was wondering, when is the shop open?"
    hidden = rag.retrieve(wordy, k=1)[0].confidence
    assert hidden < found
    rag.threshold = (hidden + found) / 2
    plain = rag.answer("When is the shop open?", max_new_tokens=4)
    assert rag.answer(wordy, max_new_tokens=4).answer == plain.answer
    assert rag.answer("Good morning, my train arrives at noon.").finish_reason == "nothing_found"


def test_the_threshold_is_the_checkpoints_unless_somebody_says_otherwise(gem):
    assert GemRAG(gem).threshold == gem.config.answerable.threshold
    assert GemRAG(gem, threshold=None).threshold is None
    assert GemRAG(gem, threshold=0.2).threshold == 0.2
