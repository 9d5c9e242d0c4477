"""The parameters of a run: one frozen model per group of ``params.yaml``.

Unknown keys are errors, so that a misspelt experiment never runs silently on a default.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from seedtalk.errors import InputError, at

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
NonNegative = Annotated[float, Field(ge=0.0)]
Seed = Annotated[int, Field(ge=0, lt=2**32 - 1)]  # what NumPy, scikit-learn and torch all take
Names = Annotated[tuple[str, ...], Field(min_length=1)]

Tuning = Literal["zero-shot", "lora", "full"]
Part = Literal["movielens", "imdb", "rt", "amazon2023", "redial", "inspired"]
Years = Literal["always", "ambiguous"]
Method = Literal["js", "fisher", "hybrid", "kcenter", "facility", "random", "popularity"]

NO_FILE = Path("seeds/none.jsonl")  # an empty file: DVC knows no optional dependency
LSA = "lsa"  # in `models`: no folder and no model id, but an encoder fitted on the reviews


class Group(BaseModel):
    """A frozen group of parameters; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Ingest(Group):
    """Where the domain comes from and what is kept of it."""

    source: Literal["quickstart", "jsonl", "corpora"]
    path: Path
    linking: Literal["strict", "balanced"]
    parts: tuple[Part, ...]
    ratings: tuple[Part, ...]
    conversations: tuple[str, ...]
    catalogue: Literal["all", "conversations"]
    min_item_ratings: Count
    min_reviewed_item_ratings: Count
    min_review_chars: Count
    max_review_chars: Positive
    max_reviews: Count
    like_threshold: float
    eval_users: Count
    context_likes: Positive
    target_likes: Positive


class Embed(Group):
    """How texts and interactions become vectors."""

    encoder: str
    pooling: Literal["mean", "last", "weighted"]
    normalize: bool
    max_tokens: Annotated[int, Field(ge=8)]
    batch_tokens: Annotated[int, Field(ge=8)]
    user_factors: Positive


class Select(Group):
    """Which reviews become seeds."""

    method: Method
    signal: Literal["review", "metadata", "user"]
    signal_weight: NonNegative
    budget: Positive
    warm_start: Path
    max_per_item: Count
    group: Literal["genre", "popularity"]
    min_per_group: Count
    min_rating: Share
    clusters: Positive
    temperature: NonNegative
    entropy_weight: NonNegative
    ridge: Annotated[float, Field(gt=0.0)]
    criterion: Literal["logdet", "trace"]
    hybrid_weight: Share
    device: Literal["cpu", "cuda"]
    stop_share: Share
    compare: tuple[Method, ...]


class Prompt(Group):
    """What a teacher is asked for each seed."""

    grounding: Literal["review", "none"]
    targets: Literal["collaborative", "teacher", "both"]
    neighbours: Literal["interactions", "metadata", "both"]
    turns: Positive
    recommendations: Positive
    liked: Count
    reviews: Count
    max_review_chars: Positive
    response_format: Literal["json_schema", "json_object", "text"]
    template: Path
    ungrounded_template: Path
    styles: Path


class Teacher(Group):
    """Who answers, and what it may cost."""

    backend: Literal["extractive", "openai", "batch", "replay"]
    model: Annotated[str, Field(min_length=1)]
    base_url: str
    temperature: NonNegative
    max_tokens: Positive
    max_usd: NonNegative
    max_calls: Count
    prices: Path
    usd_per_million_input: float
    usd_per_million_output: float
    concurrency: Positive
    requests_per_minute: Count
    tokens_per_minute: Count
    attempts: Positive
    timeout: Annotated[float, Field(gt=0.0)]
    repair: bool
    batch_requests: Annotated[int, Field(ge=1, le=50_000)]
    batch_poll: Annotated[float, Field(gt=0.0)]
    trace: bool

    @field_validator("base_url")
    @classmethod
    def _without_secrets(cls, url: str) -> str:
        # Parameters are logged, shown and committed.
        parts = urlsplit(url)
        if "@" in parts.netloc or parts.query:
            raise ValueError(
                "no credentials and no query in the address; put the key in OPENAI_API_KEY"
            )
        if url and (parts.scheme not in ("http", "https") or not parts.netloc):
            raise ValueError("expected an address that begins with http:// or https://")
        return url


class Curate(Group):
    """What a dialogue must be to train a student."""

    min_query_chars: Count
    max_query_chars: Positive
    min_recommendations: Positive
    near_duplicate: Annotated[float, Field(gt=0.0, le=1.0)]
    contamination_ngram: Positive
    encoder: str
    contamination_similarity: Share
    valid_fraction: Annotated[float, Field(gt=0.0, lt=1.0)]
    years: Years
    unlinked: Literal["drop", "keep"]
    train_on: Literal["synthetic", "real", "both", "transfer"]
    real: str
    real_conversations: Count
    transfer: Path


class Audit(Group):
    """How the dialogues are measured."""

    encoder: str


class Finetune(Group):
    """How a student learns."""

    epochs: Annotated[float, Field(gt=0.0)]
    learning_rate: Annotated[float, Field(gt=0.0)]
    full_learning_rate: Annotated[float, Field(gt=0.0)]
    batch_size: Positive
    gradient_accumulation: Positive
    max_length: Annotated[int, Field(ge=16)]
    warmup_steps: Count
    answer_titles: Count
    lora_r: Positive
    lora_alpha: Positive
    lora_dropout: Annotated[float, Field(ge=0.0, lt=1.0)]
    lora_layers: Count
    precision: Literal["fp32", "bf16", "fp16"]
    gradient_checkpointing: bool
    packing: bool
    evaluations: Positive
    patience: Positive


class Evaluate(Group):
    """How a recommender is scored."""

    candidates: Count
    decoding: Literal["exact", "beam", "free"]
    beam: Count
    depth: Positive
    pool: Count
    popularity_correction: Share
    score: Literal["mean", "sum"]
    max_conversations: Count
    cutoffs: Annotated[tuple[Positive, ...], Field(min_length=1)]
    bootstrap: Annotated[int, Field(ge=100)]


class Baseline(Group):
    """What stands beside every student."""

    encoder: str
    neighbours: Positive


class Blend(Group):
    """Weights of the student's score and of the domain's signals beside it."""

    student: float
    popularity: float
    recency: float
    year: float
    item_item: float
    factors: float
    content: float
    metadata: float
    reviews: float
    bm25: float


class Report(Group):
    """What the report puts first."""

    headline: str
    examples: Count


class Register(Group):
    """What is put up for the registry's alias."""

    model: Annotated[str, Field(min_length=1)]
    student: str
    benchmark: str
    metric: str
    alias: Annotated[str, Field(min_length=1)]


class Params(Group):
    """All of ``params.yaml``."""

    seed: Seed
    models: dict[str, str]
    students: Names
    tunings: Annotated[tuple[Tuning, ...], Field(min_length=1)]
    benchmarks: Names
    ingest: Ingest
    embed: Embed
    select: Select
    prompt: Prompt
    teacher: Teacher
    curate: Curate
    audit: Audit
    finetune: Finetune
    evaluate: Evaluate
    baseline: Baseline
    blend: Blend
    report: Report
    register_: Register = Field(alias="register")  # BaseModel's metaclass owns the bare name

    @model_validator(mode="after")
    def _consistent(self) -> Params:
        if self.evaluate.candidates and max(self.evaluate.cutoffs) > self.evaluate.candidates:
            raise ValueError(
                f"evaluate.cutoffs: {max(self.evaluate.cutoffs)} is over evaluate.candidates "
                f"({self.evaluate.candidates}); lower the cutoff or raise the candidates"
            )
        shortened = self.evaluate.decoding != "exact" or not self.evaluate.candidates
        if shortened and max(self.evaluate.cutoffs) > self.evaluate.depth:
            raise ValueError(
                f"evaluate.cutoffs: {max(self.evaluate.cutoffs)} is over evaluate.depth "
                f"({self.evaluate.depth}), the items that are ranked"
            )
        metrics = {f"{m}@{k}" for m in ("recall", "ndcg") for k in self.evaluate.cutoffs} | {"mrr"}
        for place, name in (
            ("report.headline", self.report.headline),
            ("register.metric", self.register_.metric),
        ):
            if name not in metrics:
                raise ValueError(f"{place}: '{name}' is no metric; one of {sorted(metrics)}")
        for place, name in (
            *(("students", student) for student in self.students),
            ("embed.encoder", self.embed.encoder),
            ("curate.encoder", self.curate.encoder),
            ("audit.encoder", self.audit.encoder),
            ("baseline.encoder", self.baseline.encoder),
        ):
            if name not in self.models:
                raise ValueError(f"{place}: '{name}' is no name in models {sorted(self.models)}")
        if self.curate.train_on in ("real", "both"):
            if not self.curate.real:
                raise ValueError(
                    f"curate.real: curate.train_on={self.curate.train_on} needs the name of the "
                    "conversations to learn from"
                )
            if self.curate.real in self.benchmarks:
                raise ValueError(
                    f"curate.real: '{self.curate.real}' is one of the benchmarks, so the student "
                    "would be scored on what it has learnt; name other conversations"
                )
        if self.curate.train_on == "transfer" and self.curate.transfer == NO_FILE:
            raise ValueError(
                "curate.transfer: curate.train_on=transfer needs the training dialogues of a run "
                "on another domain, a copy of its artifacts/dialogues/train.jsonl"
            )
        if self.curate.unlinked == "keep" and self.prompt.targets == "collaborative":
            raise ValueError(
                "curate.unlinked: with prompt.targets=collaborative no title of the teacher's is "
                "learnt, so that there is nothing to keep; set prompt.targets=teacher (or both), "
                "or curate.unlinked=drop"
            )
        for place, name in (
            *(("students", student) for student in self.students),
            ("curate.encoder", self.curate.encoder),
            ("audit.encoder", self.audit.encoder),
        ):
            if self.models[name] == LSA:
                raise ValueError(
                    f"{place}: '{name}' is no model but is fitted on the reviews embedded; it "
                    "serves as embed.encoder and baseline.encoder only"
                )
        if self.prompt.grounding == "none" and self.prompt.targets != "teacher":
            raise ValueError(
                "prompt.targets: without grounding only the teacher can name targets; "
                "set prompt.targets=teacher"
            )
        return self

    def source_of(self, name: str) -> str:
        """Return the local folder or model id that `name` stands for in ``models``.

        Raises
        ------
        InputError
            When ``models`` has no such name.
        """
        if name not in self.models:
            raise InputError(f"'{name}' is no name in models {sorted(self.models)} (params.yaml)")
        return self.models[name]


def load_params(path: Path) -> Params:
    """Read and check a parameter file.

    Raises
    ------
    InputError
        When the file is no YAML mapping or any key is missing, unknown or out of range;
        the message lists every fault with its key.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from error
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(raw, Mapping):
        raise InputError(f"{path}: expected a mapping of groups, found {type(raw).__name__}")
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        faults = "\n".join("  " + _explain(fault, path) for fault in error.errors())
        raise InputError(f"{path}: wrong parameters\n{faults}") from error


def _explain(fault: Any, path: Path) -> str:
    location = tuple(str(part) for part in fault["loc"])
    key = ".".join(location)
    message: str = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "extra_forbidden":
        model = _group_of(location[:-1])
        near = difflib.get_close_matches(location[-1], model.model_fields, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        return f"{at(path, field=key)}: unknown key{hint}"
    if fault["type"] == "missing":
        return f"{at(path, field=key)}: missing; add it (params.yaml documents every key)"
    if not key:
        return message
    if fault["type"] == "value_error":  # our own words; the value may be a secret
        return f"{at(path, field=key)}: {message}"
    return f"{at(path, field=key)}: {message[0].lower()}{message[1:]}, got {fault['input']!r}"


def _group_of(location: tuple[str, ...]) -> type[BaseModel]:
    if not location:
        return Params
    name = "register_" if location[0] == "register" else location[0]
    kind = Params.model_fields[name].annotation
    assert isinstance(kind, type) and issubclass(kind, BaseModel)
    return kind
