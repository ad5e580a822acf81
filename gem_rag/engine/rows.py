"""What is asked of the engine, ready to be run: one row or, of a committee, several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from gem_rag.compute.reading import Reading
from gem_rag.compute.skill import Skilled
from gem_rag.engine.committee import Committee
from gem_rag.engine.options import Schema
from gem_rag.engine.sampling import Sampling


@dataclass(frozen=True)
class Seat:
    """One of the places that a request takes in a pass: what goes before its prompt there.

    Attributes:
        after: The reading it goes on from.
        skilled: The skill that acts, and from which position on: what comes before is the base's.
    """

    after: Reading | None = None
    skilled: Skilled | None = None

    @property
    def held(self) -> int:
        """Tokens of the reading."""
        return 0 if self.after is None else len(self.after)


@dataclass(frozen=True)
class Row:
    """One request, ready to be run.

    Attributes:
        prompt: Token ids, without those of the reading.
        seats: Where they are run: one, or a committee's readings and the empty text it may want.
        sampling: How its tokens are chosen.
        stops: Strings that end it.
        limit: Most tokens to generate.
        truncated: Tokens cut from its prompt.
        tools: Names of the tools it may call.
        must_call: Whether it has to call one.
        schema: What its text has to fit.
        committee: Makes one choice of what the seats say; None where there is one.
        speculates: Whether it guesses what comes next; None: where that is faster.
        beams: Beginnings of its answer that are kept side by side.
    """

    prompt: list[int]
    seats: tuple[Seat, ...]
    sampling: Sampling
    stops: Sequence[str]
    limit: int
    truncated: int
    tools: Sequence[str]
    must_call: bool = False
    schema: Schema | None = None
    committee: Committee | None = None
    speculates: bool | None = None
    beams: int = 1

    @property
    def width(self) -> int:
        """How many rows of a pass it takes."""
        return len(self.seats) * self.beams

    @property
    def follows_reading(self) -> bool:
        """Whether anything was read before its prompt."""
        return self.seats[0].after is not None

    @property
    def shared(self) -> int:
        """How many tokens at the beginning are read as any other row would read them."""
        skilled = self.seats[0].skilled
        return len(self.prompt) + self.limit if skilled is None else skilled.start

    @property
    def past(self) -> list[int]:
        """Token ids of the reading; of a committee's first."""
        after = self.seats[0].after
        return [] if after is None else after.ids.tolist()

    @property
    def held(self) -> int:
        """Tokens of all readings."""
        return sum(seat.held for seat in self.seats)

    @property
    def read(self) -> list[int]:
        """Token ids of all readings and the prompt."""
        readings = (seat.after.ids.tolist() for seat in self.seats if seat.after is not None)
        return [*chain.from_iterable(readings), *self.prompt]
