"""Read a student: the embedded one, a local folder or a hub id, with or without its tuning."""

from __future__ import annotations

import io
import json
import logging
import sys
import warnings
from collections.abc import Generator
from contextlib import contextmanager, nullcontext, redirect_stderr
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from seedtalk.errors import InputError, at
from seedtalk.params import Tuning
from seedtalk.records import atomic_dir, read_json, sha256_file, write_json
from seedtalk.students.kernels import speed_up

MANIFEST = "student.json"

Precision = Literal["fp32", "bf16", "fp16"]


class Manifest(BaseModel):
    """What a student's folder holds: ``student.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: str  # as in params.students
    tuning: Tuning
    answer: Literal["numbered"] = "numbered"  # form of its answers: templates.format_answer


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest` into a student's folder."""
    write_json(folder / MANIFEST, manifest.model_dump())


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a student's folder.

    Raises
    ------
    InputError
        When there is none or a field of it is wrong.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise InputError(f"{path}: no such file; `dvc repro finetune` writes students")
    try:
        return Manifest.model_validate(read_json(path))
    except ValidationError as error:
        fault = error.errors()[0]
        field = ".".join(map(str, fault["loc"])) or None
        raise InputError(f"{at(path, field=field)}: {fault['msg']}") from error


def load_base(student: str, *, cache_dir: Path) -> tuple[Any, Any]:
    """Load an untouched student in fp32 and evaluation mode, on the GPU where there is one.

    Parameters
    ----------
    student
        A local folder, in Hugging Face layout or with one GGUF file, or a model id of the hub.
    cache_dir
        Where a GGUF model is kept as safetensors once converted.

    Returns
    -------
    model, tokenizer
        A transformers causal language model and its tokenizer.

    Raises
    ------
    InputError
        When the student is not there, or not a causal language model in safetensors.
    """
    folder = Path(student)
    if folder.is_dir():
        whole = (folder / "config.json").is_file()
        source = student if whole else str(_from_gguf(folder, cache_dir))
    elif folder.is_absolute() or student.startswith(".") or student.count("/") > 1:
        raise InputError(
            f"{student}: no such folder; set its place in params.models, "
            "or run `seedtalk fetch quickstart` for the embedded student"
        )
    else:
        source = student
    tokenizer = _tokenizer(source)
    return _model(source), tokenizer


def load_student(folder: Path, *, cache_dir: Path) -> tuple[Any, Any]:
    """Load the student that `folder` describes, its adapter merged into the base.

    Parameters
    ----------
    folder
        ``student.json`` beside an adapter, a whole model or nothing more (zero-shot).
    cache_dir
        As for `load_base`.

    Returns
    -------
    model, tokenizer
        As of `load_base`.

    Raises
    ------
    InputError
        When the folder is incomplete, or for the reasons of `load_base`.
    """
    manifest = read_manifest(folder)
    weights = {"zero-shot": None, "lora": "adapter_model", "full": "model"}[manifest.tuning]
    if weights and not any(folder.glob(f"{weights}*.safetensors")):
        raise InputError(
            f"{folder / weights}.safetensors: no such file; `dvc repro finetune` writes it"
        )
    if manifest.tuning == "full":
        return _model(str(folder)), _tokenizer(str(folder))
    base, tokenizer = load_base(manifest.base, cache_dir=cache_dir)
    if manifest.tuning == "zero-shot":
        return base, tokenizer
    from peft import PeftModel

    with quiet():
        merged = PeftModel.from_pretrained(base, str(folder)).merge_and_unload()
    return _frozen(speed_up(merged)), tokenizer


def save_whole(model: Any, tokenizer: Any, folder: Path, base: str) -> None:
    """Write a model with its tokenizer as a student of tuning ``full``, readable by itself.

    Parameters
    ----------
    model, tokenizer
        As of `load_student`.
    folder
        Existing folder to write into.
    base
        What the student was made of, for its manifest.
    """
    model.config._name_or_path = base  # transformers would keep this machine's path
    model.config.use_cache = True  # a trainer turns it off
    with quiet():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    write_manifest(folder, Manifest(base=base, tuning="full"))
    for path in folder.iterdir():
        path.chmod(0o644)  # safetensors writes for its owner only


def device() -> str:
    """Return where models run: ``cuda`` where there is a GPU, else ``cpu``."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def check_precision(precision: Precision) -> None:
    """Refuse a precision that this device does not compute in.

    Raises
    ------
    InputError
        For bf16 on a device without it, and for fp16 without a GPU: its small gradients need a
        loss scale, which is kept on GPUs only.
    """
    import torch

    if precision == "fp32":
        return
    if precision == "fp16":
        native = torch.cuda.is_available()
    elif torch.cuda.is_available():
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    if not native:
        name = {"bf16": "bfloat16", "fp16": "float16"}[precision]
        raise InputError(
            f"finetune.precision: this {device()} does not train in {name}; set it to fp32"
        )


@contextmanager
def quiet() -> Generator[None, None, None]:
    """Silence the progress bars, advice and deprecations of the libraries underneath."""
    from huggingface_hub.utils import logging as of_hub
    from huggingface_hub.utils.tqdm import disable_progress_bars, enable_progress_bars
    from transformers.utils import logging as of_transformers

    loggers = (of_transformers, of_hub)
    levels, bars = (
        [log.get_verbosity() for log in loggers],
        of_transformers.is_progress_bar_enabled(),
    )
    for log in loggers:
        log.set_verbosity(logging.ERROR)
    of_transformers.disable_progress_bar()
    disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        for log, level in zip(loggers, levels, strict=True):
            log.set_verbosity(level)
        if bars:
            of_transformers.enable_progress_bar()
            enable_progress_bars()


def _from_gguf(folder: Path, cache_dir: Path) -> Path:
    """Return the folder's GGUF model as safetensors, converted the first time."""
    found = sorted(folder.glob("*.gguf"))
    if len(found) != 1:
        raise InputError(
            f"{folder}: neither config.json nor one file *.gguf; "
            "run `seedtalk fetch quickstart` for the embedded student"
        )
    target = cache_dir / "students" / sha256_file(found[0])
    if target.is_dir():
        return target
    from filelock import FileLock

    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):  # parallel stages convert once
        if not target.is_dir():
            _convert(found[0], target)
    return target


def _convert(gguf: Path, target: Path) -> None:
    """Write the dequantised model of a GGUF file as an ordinary transformers folder.

    A model read from GGUF refuses ``save_pretrained``, so its weights move into a fresh one
    whose config says nothing of quantisation.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    # The reader of GGUF has its own bar, that knows no silence.
    hushed = nullcontext() if sys.stderr.isatty() else redirect_stderr(io.StringIO())
    with quiet(), hushed, atomic_dir(target) as folder:
        try:
            tokenizer = AutoTokenizer.from_pretrained(**source)
            quantised = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"{gguf}: not a readable GGUF model ({error})") from error
        config = quantised.config
        del config.quantization_config
        with torch.device("meta"):  # no time lost on random weights
            plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        plain.load_state_dict(quantised.state_dict(), assign=True)
        plain.tie_weights()
        plain.generation_config = quantised.generation_config
        plain.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def _tokenizer(source: str) -> Any:
    from transformers import AutoTokenizer

    with quiet(), _reading(source):
        tokenizer = AutoTokenizer.from_pretrained(source)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _model(source: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    with quiet(), _reading(source):
        model = AutoModelForCausalLM.from_pretrained(
            source, dtype=torch.float32, use_safetensors=True
        )
    return _frozen(speed_up(model.to(device())))


def _frozen(model: Any) -> Any:
    model.eval()
    model.requires_grad_(False)
    return model


@contextmanager
def _reading(source: str) -> Generator[None, None, None]:
    try:
        yield
    except (OSError, ValueError, KeyError, json.JSONDecodeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"{source}: no causal language model could be read ({reason}); "
            "give a folder with config.json and safetensors, one with a GGUF file, or a model id"
        ) from error
