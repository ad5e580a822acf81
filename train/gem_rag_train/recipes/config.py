"""A recipe: everything a run depends on, frozen, and kept as TOML."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from gem_rag.config import AdapterScope, Pooling
from gem_rag.errors import GemError
from gem_rag_train.recipes.precision import PRECISIONS, Precision
from gem_rag_train.recipes.settings import Settings, at_home

RECIPE = "recipe.toml"  # a run's own, in its checkpoint
LM_TASKS = ("reconstruction", "continuation", "summary", "soft_prompt")
TAUGHT = ("alignment", "neighbourhood", "distillation")  # weights of what a teacher says
AT_LEAST_1 = ("steps", "cycles", "batch_size", "max_length", "checkpoint_every", "neighbours")
ABOVE_0 = tuple(f"{what}_temperature" for what in ("neighbourhood", "distillation", "ranker"))
AT_LEAST_0 = (
    *("examples", "gradcache_tokens", "written_questions", "heldout_passages", "eval_every"),
    *("patience", "seed", "max_grad_norm", "warmup_steps", "alpha_hold", "alpha_ramp"),
    *("learning_rate", "ntp_learning_rate", "token_learning_rate", "weight_decay"),
    *("contrastive", *TAUGHT, "ranker_weight", "ranker_candidates", "whitening", "embed_layers"),
)
LOG = "log.jsonl"  # in a run's folder: each step's facts, the metrics where they were measured
METRICS = ("heldout_ndcg10", "heldout_ntp_loss", "heldout_recall1")


@dataclass(frozen=True)
class TrainConfig(Settings):
    """Settings of one training run.

    Attributes:
        base: Base model: ``embedded:smollm2-135m-instruct``, a folder or a hub id.
        output: Folder of the checkpoint; the run's state is kept beside it in ``<output>.run``.
        shares: How much of a batch each kind of pair gets: what `gem_rag_train.data.tasks` names
            and, with `data_files`, what `gem_rag_train.data.files` finds in them. Left out: all of
            the files' kinds, or crops without files.
        prose: How much of the passages that crops, clozes, titles, sentences and phrases are cut
            from comes from which source: `gem_rag_train.data.tasks.PROSE`.
        data_files: Your own training data: JSONL (its columns decide the kind) or documents.
        steps: Optimizer steps.
        batch_size: Pairs per step, over all processes; the other pairs are the negatives.
        gradcache_tokens: Bound of a forward pass's tokens (with `examples`: it takes 64 texts);
            the batch's gradients are then cached (GradCache), so that its size costs time and no
            memory. 0 keeps the whole graph.
        lm_tasks: Share of each task among the language-model rows that carry special tokens:
            "reconstruction", "continuation", and of `data_files` "summary", "soft_prompt".
        raw_share: The paper's p: share of rows of raw text. Of use with scope ``always`` alone:
            elsewhere plain text has nothing to train, and every row carries special tokens.
        alpha_hold: Steps without the contrastive loss (its weight alpha is 0).
        alpha_ramp: Steps in which alpha then rises to `alpha_end`.
        alpha_end: ``loss = (1 - alpha) * next-token + alpha * contrastive``. With the defaults
            alpha is 1 from the start: contrastive alone.
        learning_rate: Peak rate of the weights when alpha is 1.
        ntp_learning_rate: Peak rate of the weights when alpha is 0; the rate moves between the two
            with alpha. 0 is `learning_rate`.
        token_learning_rate: Peak rate of the token vectors.
        warmup_steps: Linear warm-up (of half a cycle at most), then a cosine to zero.
        cycles: Go through warm-up and cosine so many times, each an equal part of `steps`. The
            checkpoint is then the mean of the weights at the ends of all cycles (stochastic weight
            averaging, Izmailov et al. 2018); with `eval_every` the best that was measured, the mean
            being measured last.
        weight_decay: AdamW's, on the adapter.
        max_grad_norm: Gradients are clipped to this norm; 0: they are not.
        max_length: Tokens of each training text.
        checkpoint_every: Steps between saved states a run can resume from.
        heldout_passages: Pairs that held-out retrieval is measured on: a tenth of `data_files`,
            which is not trained on then, or questions and passages of BoolQ's dev part.
        seed: Of the start, the data order and the crops.
        num_special_tokens: K.
        pooling: As in `GemConfig`.
        adapter_scope: As in `GemConfig`.
        embed_layers: As in `GemConfig`; 0 is all.
        adapter_rank: LoRA rank.
        adapter_alpha: LoRA alpha.
        adapter_targets: Last names of the layers to adapt, such as "q_proj"; empty: all linear.
        full_fine_tuning: Train the base's weights instead of an adapter (scope ``always``); the
            checkpoint then holds its own base.
        whitening: How many directions at most are weakened in queries' vectors, after training:
            those in which texts differ more than on average, half the way to that. 0: none.
        query_prefix: As in `GemConfig`.
        query_instruction: As in `GemConfig`.
        document_instruction: As in `GemConfig`.
        start_from: A checkpoint to go on from (its base, K, pooling, scope, layers and adapter must
            be the recipe's).
        examples: Draw this many pairs once, keep their readings on disk and train on them in
            epochs: each step then costs only the special tokens. 0 draws new pairs each step.
        readings: Folder of those readings, which runs on the same texts can share; empty is
            ``<output>.readings``.
        kept_gigabytes: Bound of those readings.
        reading_precision: "no", "bf16" to read those texts in bfloat16, faster where the hardware
            has it, with coarser rounding in what the special tokens learn to read, or "auto":
            "bf16" where the hardware has it.
        written_questions: About so many questions that the model itself writes for passages that
            were drawn (with `examples`): further pairs, without labels. Dropped are those that do
            not lead the teacher, or without one the checkpoint of `start_from`, to their passage;
            without either all are kept.
        neighbours: With a teacher and `examples`, a batch is made of so many texts at a time that
            are near to each other: harder negatives. 1 is by chance.
        contrastive: Weight of InfoNCE over the batch; 0 leaves embedding to the teachers alone.
        teacher: An embedder: "all-MiniLM-L6-v2", or a folder or hub id of an encoder whose vectors
            are its tokens' mean. It is distilled from, finds false negatives and hard ones, and
            drops written questions that do not lead back to their passage.
        alignment: Weight of the loss that brings each vector to the teacher's of the same text, the
            teacher's space being turned onto the model's; 0 is without it.
        neighbourhood: Weight of the loss that gives each vector the teacher's neighbours among all
            texts of the run (with a teacher and `examples`); 0 is without it.
        neighbourhood_temperature: Of the similarities it compares; lower looks at nearer ones.
        distillation: Weight of the loss that makes the similarities within the batch the teacher's.
        distillation_temperature: Of the similarities it compares.
        ranker_weight: Weight of the loss that makes the base's own ranking of the batch's passages
            the embedding's soft labels; 0 is without it.
        ranker_candidates: Passages it ranks for each question: its own and those now found nearest;
            0 is all of the batch.
        ranker_temperature: The ranking's log-likelihoods (nats per token) are divided by it.
        mixed_precision: "no", "bf16" (weights stay fp32), or "auto": "bf16" where the hardware has
            it.
        activation_checkpointing: Compute each layer twice instead of keeping its activations.
        eval_every: Measure held-out quality every so many steps and keep the best weights; 0: not.
        best_metric: What decides: "heldout_ndcg10", "heldout_recall1" or, with scope ``always``,
            "heldout_ntp_loss".
        patience: Stop after so many measurements without a better one; 0: never.
        tensorboard: Log to TensorBoard, in the run's folder (extra ``tensorboard``).
        push_to_hub: "user/name" on the hub to upload the checkpoint to.
        hub_private: Make that repository a private one, if it is new.
    """

    recipes: ClassVar[Path] = Path(__file__).parent

    base: str = "embedded:smollm2-135m-instruct"
    output: str = "runs/gem"
    shares: dict[str, float] = field(default_factory=dict)
    prose: dict[str, float] = field(
        default_factory=lambda: {"boolq": 0.5, "bbc": 0.25, "django": 0.25}
    )
    data_files: tuple[str, ...] = ()
    steps: int = 300
    batch_size: int = 64
    gradcache_tokens: int = 0
    lm_tasks: dict[str, float] = field(default_factory=lambda: {"reconstruction": 1.0})
    raw_share: float = 0.8
    alpha_hold: int = 0
    alpha_ramp: int = 0
    alpha_end: float = 1.0
    learning_rate: float = 5e-4
    ntp_learning_rate: float = 0.0
    token_learning_rate: float = 5e-3
    warmup_steps: int = 10
    cycles: int = 1
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    max_length: int = 128
    checkpoint_every: int = 20
    heldout_passages: int = 150
    seed: int = 0
    num_special_tokens: int = 4
    pooling: Pooling = "mean"
    adapter_scope: AdapterScope = "tokens"
    embed_layers: int = 0
    adapter_rank: int = 32
    adapter_alpha: float = 32.0
    adapter_targets: tuple[str, ...] = ()
    full_fine_tuning: bool = False
    whitening: int = 0
    query_prefix: str = ""
    query_instruction: str = ""
    document_instruction: str = ""
    start_from: str = ""
    examples: int = 0
    readings: str = ""
    kept_gigabytes: float = 20.0
    reading_precision: Precision = "no"
    written_questions: int = 0
    neighbours: int = 1
    teacher: str = ""
    contrastive: float = 1.0
    alignment: float = 0.0
    neighbourhood: float = 0.0
    neighbourhood_temperature: float = 0.03
    distillation: float = 0.0
    distillation_temperature: float = 0.05
    ranker_weight: float = 0.0
    ranker_candidates: int = 8
    ranker_temperature: float = 0.2
    mixed_precision: Precision = "no"
    activation_checkpointing: bool = False
    eval_every: int = 0
    best_metric: str = "heldout_ndcg10"
    patience: int = 0
    tensorboard: bool = False
    push_to_hub: str = ""
    hub_private: bool = False

    def __post_init__(self) -> None:
        self.take_their_kinds()
        for name in ("output", "readings"):
            object.__setattr__(self, name, at_home(vars(self)[name]))
        object.__setattr__(self, "data_files", tuple(map(at_home, self.data_files)))
        if not self.shares and not self.data_files:
            object.__setattr__(self, "shares", {"crops": 1.0})
        for name in AT_LEAST_1:
            self.require(vars(self)[name] >= 1, name, ">= 1")
        for name in ABOVE_0:
            self.require(vars(self)[name] > 0, name, "above 0")
        self.require(self.batch_size >= 2, "batch_size", ">= 2: the loss needs negatives")
        for name in ("raw_share", "alpha_end"):
            self.require(0 <= vars(self)[name] <= 1, name, "from 0 to 1")
        for name in AT_LEAST_0:
            self.require(vars(self)[name] >= 0, name, ">= 0")
        for name in ("mixed_precision", "reading_precision"):
            self.require(vars(self)[name] in PRECISIONS, name, f"one of {PRECISIONS}")
        self.require(self.best_metric in METRICS, "best_metric", f"one of {list(METRICS)}")
        self.require(
            not self.lm_tasks.keys() - set(LM_TASKS) and any(v > 0 for v in self.lm_tasks.values()),
            "lm_tasks",
            f"shares above zero of {sorted(LM_TASKS)}",
        )
        self._require_combinations()

    def _require_combinations(self) -> None:
        if self.taught and not self.teacher:
            raise GemError(
                f"recipe: no teacher, but {', '.join(self.taught)} above 0; expected one, such as "
                "'all-MiniLM-L6-v2', or 0"
            )
        if not (self.contrastive or self.taught or self.ranker_weight or self.trains_language):
            raise GemError("recipe: contrastive is 0 and so is every other loss; set one above 0")
        if self.best_metric == "heldout_ntp_loss":
            scope = "'always' with best_metric heldout_ntp_loss: with others it never changes"
            self.require(self.adapter_scope == "always", "adapter_scope", scope)
        if self.neighbourhood and not self.examples:
            raise GemError("recipe: neighbourhood above 0 compares with all examples; set some")
        if self.written_questions and not self.examples:
            raise GemError("recipe: written_questions are about the passages of examples; set some")
        least = f"0 or at least batch_size ({self.batch_size})"
        self.require(not 0 < self.examples < self.batch_size, "examples", least)
        if self.examples:
            self.require(self.adapter_scope == "tokens", "adapter_scope", "'tokens' with examples")
        if self.full_fine_tuning:
            self.require(
                self.adapter_scope == "always", "adapter_scope", "'always' with full_fine_tuning"
            )
            self.require(not self.start_from, "start_from", "'' with full_fine_tuning: set base")
        if self.embed_layers and self.trains_language:
            raise GemError(
                "recipe: embed_layers with a next-token loss (alpha_hold, alpha_ramp, or alpha_end "
                "below 1) would predict from layers that never predict; set embed_layers to 0, or "
                "train the contrastive loss alone"
            )
        if self.eval_every:
            self.require(self.heldout_passages >= 2, "heldout_passages", ">= 2 with eval_every")
        if self.patience and not self.eval_every:
            raise GemError("recipe: patience needs eval_every, the steps between measurements")

    @property
    def taught(self) -> list[str]:
        """The losses on a teacher's vectors that weigh something."""
        return [name for name in TAUGHT if vars(self)[name]]

    @property
    def readings_folder(self) -> Path:
        """Where kept readings are."""
        return Path(self.readings or f"{self.output}.readings")

    @property
    def cycle_steps(self) -> int:
        """Steps of each cycle of the learning rate; the last also has what is left over."""
        return max(1, self.steps // self.cycles)

    @property
    def trains_language(self) -> bool:
        """Whether any step has a next-token loss."""
        return self.alpha_hold > 0 or self.alpha_ramp > 0 or self.alpha_end < 1
