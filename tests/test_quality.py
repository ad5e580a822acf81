"""The default model still finds and ranks: a guard against silent loss, not a measure of quality.

Passages and questions were written for this test. Each passage has near neighbours (the same trade,
another fact), and no question uses its passage's main words where others would do.
"""

import numpy as np
import pytest

PAIRS = [
    (
        "Sourdough is left to rise overnight in a cool room, because wild yeast works more slowly "
        "than the kind sold in packets.",
        "Why does bread made without shop-bought yeast need so long?",
    ),
    (
        "A baguette is slashed with a razor before it goes into the oven, so that steam can escape "
        "and the crust opens along the cuts.",
        "What are the cuts on top of a French loaf for?",
    ),
    (
        "The lighthouse on Gull Rock was automated in 1987, and its last keeper moved to the "
        "mainland the same spring.",
        "When did people stop living in the tower at Gull Rock?",
    ),
    (
        "The lamp of a lighthouse turns on a bath of mercury, on which several tons of glass can "
        "be pushed round with one finger.",
        "How can such a heavy lens be moved so easily?",
    ),
    (
        "Bees tell each other where flowers are by dancing: the angle of the waggle gives the "
        "direction relative to the sun, its length the distance.",
        "How does an insect describe the way to food to the rest of the hive?",
    ),
    (
        "In winter a colony of bees forms a ball around its queen and shivers, which keeps the "
        "middle of the hive at about thirty degrees.",
        "How do honey makers stay warm when it freezes outside?",
    ),
    (
        "Tenants must give three months' notice in writing, counted from the first day of the "
        "following month.",
        "How early do I have to say that I am moving out of my flat?",
    ),
    (
        "The deposit is returned within six weeks of the keys being handed over, less the cost of "
        "any damage to the rooms.",
        "How long until the landlord pays back my security money?",
    ),
    (
        "The night train to Vienna leaves from platform four at 22:10 and carries two sleeping "
        "cars and a car for bicycles.",
        "Can I take my bike along to Austria overnight?",
    ),
    (
        "Seats in regional trains cannot be reserved; travellers in a group of more than six "
        "should call the station the day before.",
        "We are eight people on a local line, what should we do?",
    ),
    (
        "Insulin should be stored in the refrigerator, but never frozen, and a pen in use keeps "
        "for four weeks at room temperature.",
        "How long may a diabetic carry an opened injector outside the fridge?",
    ),
    (
        "A fever above forty degrees in a small child, or one that lasts longer than three days, "
        "should be seen by a doctor.",
        "When is a toddler's temperature a reason to call the surgery?",
    ),
    (
        "The mill was built beside the stream in 1612 and ground rye for five villages until the "
        "railway brought cheaper flour.",
        "What put the old water-powered grinder out of business?",
    ),
    (
        "Windmills in the fens did not grind corn: they drove scoops that lifted water out of the "
        "drained fields into the canals.",
        "What were the sails in the marshland used for, if not for making flour?",
    ),
    (
        "To reset the router, hold the small button at the back for ten seconds until the green "
        "light blinks twice.",
        "My internet box hangs, how do I put it back to its original state?",
    ),
    (
        "The printer takes cartridges of the type K-20 only; others are not recognised and the "
        "display shows error 14.",
        "What does it mean if fourteen appears on the screen after I changed the ink?",
    ),
    (
        "Octopuses have three hearts, two of which pump blood through the gills and stop beating "
        "while the animal crawls.",
        "Which sea creature has more than one organ to move its blood?",
    ),
    (
        "Whales sleep with half of the brain at a time, so that the other half remembers to come "
        "up for air.",
        "How can a mammal rest in the ocean without drowning?",
    ),
    (
        "The council decided to close the swimming pool on Mill Street in July, since repairing "
        "its roof would cost two million.",
        "Why can nobody bathe in Mill Street any more?",
    ),
    (
        "Children under six and pensioners enter the museum free of charge; on the first Sunday of "
        "the month everybody does.",
        "On which day need nobody buy a ticket for the exhibition?",
    ),
    (
        "Basalt forms where lava cools quickly; the six-sided columns are cracks that grew inwards "
        "from the surface as the rock shrank.",
        "How did the hexagonal stone pillars come about?",
    ),
    (
        "Marble is limestone that was heated and pressed deep in the earth until its grains grew "
        "into one another.",
        "Out of which rock does the sculptors' material come?",
    ),
    (
        "The violin's strings were once made of sheep's gut, which sounds warm but goes out of "
        "tune whenever the air turns damp.",
        "Why was an old fiddle hard to keep in tune in wet weather?",
    ),
    (
        "An organ pipe of wood sounds softer than one of tin, and the longest ones are felt in the "
        "floor rather than heard.",
        "Which part of the church instrument makes notes too low for the ear?",
    ),
]
PASSAGES = [passage for passage, _ in PAIRS]
QUESTIONS = [question for _, question in PAIRS]


@pytest.fixture(scope="module")
def similarities(default_model):
    """Cosines of questions with passages, ``[Q, P]``."""
    return default_model.embed_queries(QUESTIONS) @ default_model.embed_documents(PASSAGES).T


@pytest.mark.model
def test_embedding_finds_the_passage(similarities):
    order = np.argsort(-similarities, axis=1)
    first = np.mean(order[:, 0] == np.arange(len(PAIRS)))
    among_five = np.mean([i in row[:5] for i, row in enumerate(order)])
    print(f"recall@1 {first:.3f}, recall@5 {among_five:.3f}")
    assert first >= 0.6  # 0.75 when this was written
    assert among_five >= 0.85  # 1.00


@pytest.mark.model
def test_ranking_the_five_nearest_finds_it_more_often(default_model, similarities):
    readings = default_model.read(PASSAGES)
    hits = []  # long: the real model scores five passages for each of the questions
    for i, question in enumerate(QUESTIONS):
        nearest = np.argsort(-similarities[i])[:5]
        best = default_model.rank(question, [readings[j] for j in nearest])[0]
        hits.append(int(nearest[best.index]) == i)
    first = np.mean(hits)
    print(f"recall@1 after ranking {first:.3f}")
    assert first >= 0.75  # 0.875
