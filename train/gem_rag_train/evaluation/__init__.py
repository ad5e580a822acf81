"""Knowing how good a checkpoint is, beside its base and all-MiniLM-L6-v2: `evaluate`."""

from gem_rag_train.evaluation.embedding import KEPT_BYTES, RetrievalScores, retrieval
from gem_rag_train.evaluation.report import JSON_FILE, TABLE_FILE, Report
from gem_rag_train.evaluation.run import PARTS, EvalSettings, evaluate
from gem_rag_train.evaluation.sets import Question, load_stsb, squad, squad_sample
from gem_rag_train.evaluation.systems import first_tokens, minilm

__all__ = [
    "JSON_FILE",
    "KEPT_BYTES",
    "PARTS",
    "TABLE_FILE",
    "EvalSettings",
    "Question",
    "Report",
    "RetrievalScores",
    "evaluate",
    "first_tokens",
    "load_stsb",
    "minilm",
    "retrieval",
    "squad",
    "squad_sample",
]
