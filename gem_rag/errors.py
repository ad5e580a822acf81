"""What can go wrong, by kind. Every message says what was found, what was expected, what to do."""


class GemError(Exception):
    """Base of all errors this library raises on purpose."""


class CheckpointError(GemError):
    """A checkpoint or base model is missing, incomplete, or does not fit what it says it is."""


class UnsupportedModelError(GemError):
    """The base model's architecture cannot be read and embedded the GEM way."""


class ContextLengthError(GemError):
    """A prompt or text does not fit the model's context window."""


class ReadingError(GemError):
    """A reading cannot be used here: another model made it, or its scope forbids reuse."""


class EngineFull(GemError):  # noqa: N818
    """Too many requests are waiting for the model, and the caller would not wait."""


class GenerationTimeout(GemError, TimeoutError):  # noqa: N818
    """An answer was not whole in the time it was given; it is not computed further."""


class OptionError(GemError, TypeError, ValueError):
    """An option that nobody would honour: its name is unknown, or it says two things."""


class FetchError(GemError):
    """Something could not be fetched from the package index, or arrived damaged."""


class GemIndexError(GemError):
    """An index is damaged, foreign, newer than this library, or made by another model."""


class DiskFullError(GemIndexError):
    """An index could not be written because its disk is full; what was committed stays."""


class DocumentError(GemError):
    """A file cannot be turned into text."""


class MissingExtraError(GemError, ImportError):
    """An optional dependency is not installed; the message names the extra that brings it."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f"{feature} needs an extra: `pip install 'gem-rag[{extra}]'`")


class TruncationWarning(UserWarning):
    """Texts were cut to fit; the message counts them and the tokens lost."""
