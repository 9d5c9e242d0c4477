"""A student for others: whole weights or an adapter in Hugging Face's layout, with a model card."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

from seedtalk.errors import InputError, at
from seedtalk.records import atomic_dir, atomic_file, read_json, write_json
from seedtalk.students.loading import (
    load_base,
    load_student,
    quiet,
    read_manifest,
    save_whole,
)
from seedtalk.students.templates import SYSTEM
from seedtalk.texts import visible

if TYPE_CHECKING:
    from seedtalk.params import Params

Form = Literal["merged", "adapter"]

ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
MOST_TOKENS = 256  # of an answer, where who asks sets no limit
METRICS = ("recall@1", "recall@5", "recall@10", "recall@20", "recall@50", "mrr")
LICENCES = (  # of the bases that DESIGN names, as the hub writes them; by the model's name
    (r"smollm2-", "apache-2.0"),
    (r"qwen2\.5-(0\.5|1\.5|7|14|32)b", "apache-2.0"),
    (r"llama-3\.2-", "llama3.2"),
    (r"gemma-2-", "gemma"),
)
UNKNOWN_LICENCE = "other"

# A request that brings no system message gets the one the student was trained with; a template
# that refuses the role (Gemma's) has it at the head of the first message, as in training.
_PREFIX = (
    "{%- set date_string = '01 Jan 2025' -%}{%- set enable_thinking = false -%}"
    "{%- if messages[0]['role'] != 'system' -%}"
    "{%- set messages = [{'role': 'system', 'content': SYSTEM}] + messages -%}{%- endif -%}"
)
_FOLD = (
    "{%- set messages = [{'role': 'user', 'content': messages[0]['content'] + '\\n\\n' + "
    "messages[1]['content']}] + messages[2:] -%}"
)
_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+!|~$<>&])")


@dataclass(frozen=True)
class Evidence:
    """What a run's ``results/`` say of a student; None or empty where a file is not there."""

    corpus: Mapping[str, Any] | None
    teacher: Mapping[str, Any] | None
    synthesis: Mapping[str, Any] | None
    scores: Mapping[str, Mapping[str, Mapping[str, Any]]]  # benchmark: system: metric: interval
    protocols: Mapping[str, Mapping[str, Any]]  # benchmark: how it was scored


def export_model(
    student: Path,
    target: Path,
    form: Form,
    params: Params,
    results: Path,
    *,
    licence: str | None = None,
    cache_dir: Path,
) -> Path:
    """Write a student into a new folder that needs nothing of seedtalk.

    Parameters
    ----------
    student
        ``models/<student>-<tuning>``.
    target
        A folder that is not there yet, or is empty.
    form
        ``merged``: whole weights in safetensors, for ``AutoModelForCausalLM.from_pretrained``.
        ``adapter``: the LoRA adapter, for ``PeftModel.from_pretrained`` on its base. Both come
        with the tokenizer, whose chat template sets the system message of the training.
    params
        Of the run, for the card.
    results
        The run's ``results/``, for the card; it may be missing.
    licence
        Of the weights, for the card; by default that of the base, where it is known.
    cache_dir
        As for `students.loading.load_student`.

    Returns
    -------
    Path
        The model card, ``README.md`` in the folder.

    Raises
    ------
    InputError
        When the student cannot be read, has no adapter to export, the folder holds something, or
        a file of `results` is not what its stage writes.
    """
    manifest = read_manifest(student)
    if form == "adapter" and manifest.tuning != "lora":
        raise InputError(
            f"{student}: its tuning is {manifest.tuning}, which has no adapter; export it --merged"
        )
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target}: is there already; name a new or empty folder")
    evidence = read_evidence(results, student.name)
    base = public_name(manifest.base)
    with atomic_dir(target) as folder:
        if form == "merged":
            model, tokenizer = load_student(student, cache_dir=cache_dir)
            _greedy(model)
            tokenizer.chat_template = chat_template(tokenizer)
            save_whole(model, tokenizer, folder, base=base)
        else:
            _, tokenizer = load_base(manifest.base, cache_dir=cache_dir)
            tokenizer.chat_template = chat_template(tokenizer)
            _write_adapter(student, folder, base)
            with quiet():
                tokenizer.save_pretrained(folder)
        text = card(student.name, base, form, params, evidence, licence=licence)
        with atomic_file(folder / "README.md") as file:
            file.write(text)
        for path in folder.iterdir():
            path.chmod(0o644)
    return target / "README.md"


def public_name(base: str) -> str:
    """Return a base's name without the place it lies at on this machine."""
    is_place = Path(base).is_dir() or Path(base).is_absolute() or base.startswith(".")
    local = is_place or base.count("/") > 1
    return PurePosixPath(base).name if local else base


def chat_template(tokenizer: Any) -> str:
    """Return the tokenizer's template, so that a bare chat is rendered as in training.

    Raises
    ------
    InputError
        When the tokenizer has no chat template.
    """
    from jinja2 import TemplateError

    if not tokenizer.chat_template:
        raise InputError("the student's tokenizer has no chat template; nobody could ask it")
    probe = [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]
    prefix = _PREFIX.replace("SYSTEM", json.dumps(SYSTEM))
    try:
        tokenizer.apply_chat_template(probe, tokenize=False)
    except TemplateError:
        prefix += _FOLD
    return prefix + str(tokenizer.chat_template)


def read_evidence(results: Path, name: str) -> Evidence:
    """Read what the results say of the student `name` and of what stands beside it.

    Raises
    ------
    InputError
        When a file is not what its stage writes.
    """
    scores: dict[str, dict[str, Mapping[str, Any]]] = {}
    protocols: dict[str, Mapping[str, Any]] = {}
    student = _student_of(name)
    for path in sorted((results / "eval").glob("*.json")):
        found = _mapping(path)
        try:
            benchmark, systems = str(found["benchmark"]), dict(found["systems"])
            baseline = path.name == f"baselines-{benchmark}.json"
            for system, metrics in systems.items():
                own = system in (name, f"{name}-blend", f"{student}-zero-shot", "signals")
                if baseline or own:
                    scores.setdefault(benchmark, {})[system] = {
                        metric: (told["mean"], told["low"], told["high"])
                        for metric, told in metrics.items()
                    }
            if name in systems:
                protocols[benchmark] = dict(found["protocol"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"{path}: not an evaluation ({error!r}); run `dvc repro evaluate`"
            ) from error
    return Evidence(
        corpus=_optional(results / "corpus.json"),
        teacher=_optional(results / "teacher.json"),
        synthesis=_optional(results / "synthesis.json"),
        scores={benchmark: scores[benchmark] for benchmark in protocols},
        protocols=protocols,
    )


def card(
    name: str,
    base: str,
    form: Form,
    params: Params,
    evidence: Evidence,
    *,
    licence: str | None = None,
) -> str:
    """Return the model card: Markdown behind the hub's YAML header.

    Parameters
    ----------
    name
        ``<student>-<tuning>``.
    base
        See `public_name`.
    form, params, licence
        As of `export_model`.
    evidence
        What is known of it.
    """
    known = licence or known_licence(base)
    parts = [
        _header(base, form, known),
        f"# {_plain(name)}",
        "A conversational recommender: asked in a chat, it answers with a numbered list of titles. "
        "Made by seedtalk from reviews, without a human conversation to learn from."
        if _synthetic(evidence)
        else "A conversational recommender: asked in a chat, it answers with a numbered list of "
        "titles. Made by seedtalk; real conversations are among what it has learnt from.",
        _base(base, form, known, name, params),
        _data(evidence),
        _training(name, params),
        _metrics(name, params, evidence),
        _use(base, form),
        _limits(params, evidence),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def known_licence(base: str) -> str | None:
    """Return the licence of a base that `LICENCES` has, as the hub writes it, or None."""
    name = PurePosixPath(base).name.lower()
    return next((licence for start, licence in LICENCES if re.match(start, name)), None)


def _greedy(model: Any) -> None:
    """Let the model answer the same each time, where who asks wants nothing else."""
    config = model.generation_config
    config.do_sample, config.max_new_tokens = False, MOST_TOKENS
    config.temperature = config.top_p = config.top_k = None


def _write_adapter(student: Path, folder: Path, base: str) -> None:
    config, weights = (student / name for name in ADAPTER)
    if not weights.is_file():
        raise InputError(f"{weights}: no such file; `dvc repro finetune` writes it")
    told = _mapping(config)
    write_json(folder / config.name, {**told, "base_model_name_or_path": base})
    shutil.copyfile(weights, folder / weights.name)


def _header(base: str, form: Form, licence: str | None) -> str:
    import yaml

    header: dict[str, Any] = {
        "library_name": "transformers" if form == "merged" else "peft",
        "pipeline_tag": "text-generation",
        "language": ["en"],
        "license": licence or UNKNOWN_LICENCE,
        "tags": ["seedtalk", "conversational-recommendation"],
    }
    if "/" in base:  # a model id of the hub
        header["base_model"] = base
    return "---\n" + yaml.safe_dump(header, sort_keys=False) + "---"


def _base(base: str, form: Form, licence: str | None, name: str, params: Params) -> str:
    what = {
        "merged": "These are whole weights (safetensors)",
        "adapter": "This is a LoRA adapter (safetensors), to be put on the base",
    }[form]
    told = (
        f"Licence: {_plain(licence)}, the base's, where nothing else is said."
        if licence
        else "Licence: that of the base model, which seedtalk does not know; see its own card."
    )
    note = ""
    source = params.models.get(_student_of(name), "")
    if (Path(source).is_dir() and any(Path(source).glob("*.gguf"))) and form == "adapter":
        note = (
            " The base was read from a GGUF file and dequantised: on weights of another "
            "precision the adapter's answers differ a little."
        )
    return f"## Base model\n\n{_plain(base)}. {what}. {told}{note}"


def _student_of(name: str) -> str:
    return re.sub(r"-(zero-shot|lora|full)$", "", name)


def _synthetic(evidence: Evidence) -> bool:
    train_on = (evidence.synthesis or {}).get("train_on", "synthetic")
    return train_on in ("synthetic", "transfer")


def _data(evidence: Evidence) -> str:
    lines = []
    if corpus := evidence.corpus:
        origin = corpus.get("origin")
        made = (
            " of " + ", ".join(f"{_plain(k)} {_plain(v)}" for k, v in origin.items())
            if isinstance(origin, Mapping) and origin
            else ""
        )
        lines.append(f"- Domain: source `{_code(corpus.get('source'))}`{made}.")
    if teacher := evidence.teacher:
        backend = teacher.get("backend")
        who = (
            "the embedded extractive teacher, which composes requests from the reviews' own words "
            "and is no language model"
            if backend == "extractive"
            else f"{_plain(teacher.get('model'))} (backend {_plain(backend)})"
        )
        lines.append(f"- Teacher: {who}; {_plain(teacher.get('answered'))} answers.")
    if synthesis := evidence.synthesis:
        lines.append(
            f"- Synthetic dialogues: {_plain(synthesis.get('train'))} to train on, "
            f"{_plain(synthesis.get('valid'))} to stop by; grounding "
            f"{_plain(synthesis.get('grounding'))}, recommendations by "
            f"{_plain(synthesis.get('targets'))}."
        )
        real = synthesis.get("real")
        lines.append(
            f"- Real dialogues: {_plain(real.get('train'))} to train on, from "
            f"{_plain(real.get('kept'))} conversations of {_plain(real.get('conversations'))}."
            if isinstance(real, Mapping)
            else "- Real dialogues: none."
        )
        if isinstance(other := synthesis.get("transfer"), Mapping):
            lines.append(
                f"- Dialogues of another domain: {_plain(other.get('train'))} to train on; nothing "
                "made of this domain's reviews was learnt."
            )
    return "## Data\n\n" + "\n".join(lines) if lines else ""


def _training(name: str, params: Params) -> str:
    options = params.finetune
    rate = options.full_learning_rate if name.endswith("-full") else options.learning_rate
    if name.endswith("-zero-shot"):
        return "## Training\n\nNone: this is the untouched base, as it stands beside the students."
    lines = [
        f"- Loss on the answer's tokens only; at most {options.epochs:g} epochs, stopped early by "
        "the validation loss.",
        f"- Learning rate {rate:g}, {options.batch_size} × "
        f"{options.gradient_accumulation} examples a step of at most {options.max_length} tokens, "
        f"{options.precision}, seed {params.seed}.",
    ]
    if name.endswith("-lora"):
        layers = f"the top {options.lora_layers} layers" if options.lora_layers else "all layers"
        lines.append(f"- LoRA of rank {options.lora_r} (alpha {options.lora_alpha}) on {layers}.")
    return "## Training\n\n" + "\n".join(lines)


def _metrics(name: str, params: Params, evidence: Evidence) -> str:
    if not evidence.scores:
        return "## Metrics\n\nThis student has not been evaluated."
    headline = params.report.headline
    parts = ["## Metrics", "Means with 95% intervals (bootstrap over conversations)."]
    for benchmark, systems in evidence.scores.items():
        protocol = evidence.protocols[benchmark]
        names = [m for m in dict.fromkeys([headline, *METRICS]) if m in systems[name]]
        order = sorted(systems, key=lambda s: (-_mean(systems[s], headline), s))
        parts.append(
            f"### {_plain(benchmark)}\n\n{_plain(protocol.get('queries'))} queries in "
            f"{_plain(protocol.get('conversations'))} conversations, protocol "
            f"{_plain(protocol.get('name'))}, condition {_plain(protocol.get('condition'))}."
        )
        rows = ["| system | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
        for system in order:
            shown = f"**{_plain(system)}**" if system == name else _plain(system)
            cells = " | ".join(_interval(systems[system].get(metric)) for metric in names)
            rows.append(f"| {shown} | {cells} |")
        parts.append("\n".join(rows))
        better = [
            _plain(s) for s in order if _mean(systems[s], headline) > _mean(systems[name], headline)
        ]
        if better:
            parts.append(f"Ahead of this student at {headline}: {', '.join(better)}.")
    return "\n\n".join(parts)


def _mean(metrics: Mapping[str, Any], metric: str) -> float:
    return float(metrics[metric][0]) if metric in metrics else -1.0


def _interval(told: Sequence[float] | None) -> str:
    if told is None:
        return "–"
    mean, low, high = (float(value) for value in told)
    return f"{mean:.3f} [{low:.3f}, {high:.3f}]"


def _use(base: str, form: Form) -> str:
    loading = {
        "merged": 'model = AutoModelForCausalLM.from_pretrained("FOLDER")',
        "adapter": f'base = AutoModelForCausalLM.from_pretrained("{_code(base)}")\n'
        'model = PeftModel.from_pretrained(base, "FOLDER")',
    }[form]
    imports = "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
    if form == "adapter":
        imports = "from peft import PeftModel\n" + imports
    return (
        "## Use\n\n`FOLDER` is this folder.\n\n"
        f"```python\n{imports}\n"
        f'tokenizer = AutoTokenizer.from_pretrained("FOLDER")\n{loading}\n'
        'messages = [{"role": "user", "content": "Something tense, with a heist in it?"}]\n'
        "inputs = tokenizer.apply_chat_template(\n"
        '    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True\n'
        ")\n"
        f"written = model.generate(**inputs, do_sample=False, max_new_tokens={MOST_TOKENS})\n"
        'print(tokenizer.decode(written[0, inputs["input_ids"].shape[1]:], '
        "skip_special_tokens=True))\n"
        "```\n\n"
        f"The chat template sets the system message of the training, “{SYSTEM}”, where a chat "
        "brings none."
    )


def _limits(params: Params, evidence: Evidence) -> str:
    scored = "written freely" if params.evaluate.decoding == "free" else "found so"
    lines = [
        "- Written freely, a title may be none that exists. seedtalk's own chat and its served "
        "model (`mlflow models serve`) search the catalogue's titles and name nothing else; the "
        f"titles scored here were {scored}.",
        "- It knows the catalogue it was trained on, in English, and favours what is popular "
        "there. It answers with titles, whatever it is told; it gives no reasons and no facts.",
        "- The reviews and ratings, and their authors' tastes, are those of the data named above; "
        "their terms of use go on holding.",
    ]
    if (evidence.teacher or {}).get("backend") == "extractive":
        lines.append(
            "- No language model wrote its training requests: real seekers ask in more ways."
        )
    return "## Limits\n\n" + "\n".join(lines)


def _plain(value: Any) -> str:
    """Return foreign text for a line of Markdown: nothing in it is markup."""
    return _MARKDOWN.sub(r"\\\1", visible(str(value))) if value is not None else "unknown"


def _code(value: Any) -> str:
    """Return foreign text for between backticks or quotes."""
    return re.sub(r"[^\w./@:+-]", "", visible(str(value)))


def _optional(path: Path) -> Mapping[str, Any] | None:
    return _mapping(path) if path.is_file() else None


def _mapping(path: Path) -> Mapping[str, Any]:
    found = read_json(path)
    if not isinstance(found, Mapping):
        raise InputError(f"{at(path)}: expected an object; run `dvc repro`")
    return found
