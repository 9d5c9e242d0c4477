"""Texts to vectors: a sentence encoder, a language model's last hidden layer, or no model (LSA).

The paper represents a review by the student's own last hidden layer; the embedded default,
MiniLM, is the light alternative. Both are pooled over real tokens only. `lsa` is fitted on the
texts and needs neither weights nor a GPU.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seedtalk.errors import InputError
from seedtalk.lsa import Lsa
from seedtalk.params import LSA
from seedtalk.progress import bar

POOLINGS = ("mean", "last", "weighted")
# What a sentence encoder's folder may ask for beside its transformer, by the names of
# sentence-transformers: `encode` does no more than these.
_MODULES = ("Transformer", "Pooling", "Normalize")
_MODES = ("mean_tokens", "weightedmean_tokens", "lasttoken")
# Texts that are sorted by length together; their tokens are all that is held at a time.
_WINDOW = 65_536
# Texts that LSA takes at a time.
_PROJECTED = 4096
# Texts of a part that is kept for resuming: a killed run does at most this many again.
_PART = 256


@dataclass(frozen=True)
class Encoder:
    """A loaded encoder, so that several calls of `encode` read its weights once.

    Attributes
    ----------
    source
        The folder or model id it was loaded from.
    model, tokenizer
        A transformers model that gives ``last_hidden_state``, in evaluation mode, and its
        tokenizer.
    """

    source: str
    model: Any
    tokenizer: Any

    @cached_property
    def digest(self) -> str:
        """Hex sha256 of names, shapes, types and bytes of the weights."""
        import torch

        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            plain = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)
            digest.update(plain.numpy().data)
        return digest.hexdigest()


def load(source: str, *, cache_dir: Path, corpus: Sequence[str] | None = None) -> Encoder | Lsa:
    """Load an encoder, or fit one.

    Parameters
    ----------
    source
        A local folder (in Hugging Face layout, or with one GGUF file) or a model id of the
        hub; of a causal language model the last hidden layer is used. Or ``lsa``.
    cache_dir
        Where a GGUF model is kept as safetensors once converted.
    corpus
        The reviews, which ``lsa`` is fitted on; nothing else reads them. Two fits on the same
        texts give the same vectors.

    Raises
    ------
    InputError
        When it cannot be found or read, is an encoder-decoder, or is a sentence encoder whose
        vectors are not made by pooling as `encode` does (CLS or max pooling, a dense layer);
        or when it is ``lsa`` and there is no corpus, or its texts share too few words.
    """
    if source == LSA:
        from seedtalk.lsa import fit

        if corpus is None:
            raise InputError(
                f"'{LSA}' is no model but is fitted on the reviews embedded; it serves as "
                "embed.encoder and baseline.encoder only"
            )
        return fit(corpus)
    model, tokenizer = _load(source, cache_dir)
    _check_modules(source)
    if model.config.is_encoder_decoder:
        raise InputError(
            f"embed.encoder: '{source}' is an encoder-decoder; name a sentence encoder or "
            "a causal language model"
        )
    model.config.use_cache = False  # keys and values are for generation
    return Encoder(source, model, tokenizer)


def encode(
    texts: Sequence[str],
    encoder: str | Encoder | Lsa,
    *,
    pooling: str = "mean",
    normalize: bool = True,
    max_tokens: int = 128,
    batch_tokens: int = 4096,
    cache_dir: Path,
    partial: Path | None = None,
    out: Path | None = None,
) -> NDArray[np.float32]:
    """Return one vector a text.

    Texts of like length share a batch, so that little is padded; the batches do not change
    the result beyond rounding (about 1e-6).

    Parameters
    ----------
    texts
        Any strings; one without a token gives a row of zeros.
    encoder
        From `load`, or what `load` takes. Of a fitted `Lsa` only `texts`, `normalize`,
        `max_tokens` and `out` are read: it has nothing to pool, and is too fast to resume.
    pooling
        Over the last hidden layer: ``mean`` of the real tokens, the ``last`` real token, or
        ``weighted``, the mean with the weights 1, 2, ..., n of the token's place: in a causal
        model only late tokens have read the text (Muennighoff 2022, SGPT, eq. 3).
    normalize
        Scale every vector to length 1.
    max_tokens
        Tokens read of a text, special tokens included; of a fitted `Lsa` its first words.
    batch_tokens
        Tokens in a batch, padding included (a batch holds one text at least).
    cache_dir
        As in `load`.
    partial
        Folder for finished parts. Where given, a run that is cut off goes on from them; the
        caller removes it once the vectors are safe. Parts of other texts, weights or options
        are never used.
    out
        A ``.npy`` file the vectors are streamed to; what is returned is then a memory map of
        it, and memory does not grow with the number of texts.

    Returns
    -------
    numpy.ndarray
        (n, d) float32, in the order of `texts`.

    Raises
    ------
    InputError
        When the encoder cannot be found or read, `max_tokens` is over what it can read, or
        an option has no such value.
    """
    if pooling not in POOLINGS:
        raise InputError(f"embed.pooling: '{pooling}' is none of {', '.join(POOLINGS)}")
    loaded = load(encoder, cache_dir=cache_dir) if isinstance(encoder, str) else encoder
    if isinstance(loaded, Lsa):
        return _projected(texts, loaded, normalize, max_tokens, out)
    model, tokenizer = loaded.model, loaded.tokenizer
    longest = _longest(model)
    if longest is not None and max_tokens > longest:
        raise InputError(
            f"embed.max_tokens: {max_tokens} is over the {longest} tokens that '{loaded.source}' "
            "reads"
        )
    vectors = _rows(out, (len(texts), model.config.hidden_size))
    with bar("embed", len(texts)) as shown:
        for start in range(0, len(texts), _WINDOW):
            window = list(texts[start : start + _WINDOW])
            tokens = tokenizer(window, truncation=True, max_length=max_tokens)["input_ids"]
            store = None
            if partial is not None:
                store = partial / _key(loaded, tokens, pooling, batch_tokens)
            for number, part in enumerate(_parts([len(ids) for ids in tokens], batch_tokens)):
                rows = np.concatenate(part)
                file = None if store is None else store / f"{number:06d}.npy"
                done = None if file is None else _read_part(file, (len(rows), vectors.shape[1]))
                if done is None:
                    pad = tokenizer.pad_token_id or 0  # masked, so any token serves
                    done = np.concatenate(
                        [
                            _forward(model, [tokens[i] for i in batch], pad, pooling)
                            for batch in part
                        ]
                    )
                    if file is not None:
                        _write_part(file, done)
                vectors[start + rows] = _unit(done) if normalize else done
                shown.advance(len(rows))
    return vectors


def _projected(
    texts: Sequence[str], fitted: Lsa, normalize: bool, max_words: int, out: Path | None
) -> NDArray[np.float32]:
    """Return what `encode` returns, by a fitted encoder."""
    vectors = _rows(out, (len(texts), fitted.dimensions))
    with bar("embed", len(texts)) as shown:
        for start in range(0, len(texts), _PROJECTED):
            found = fitted.transform(texts[start : start + _PROJECTED], max_words)
            vectors[start : start + len(found)] = _unit(found) if normalize else found
            shown.advance(len(found))
    return vectors


def _rows(out: Path | None, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Return rows of zeros, in memory or as a memory map of a fresh file."""
    if out is None or not shape[0]:
        return np.zeros(shape, dtype=np.float32)
    out.parent.mkdir(parents=True, exist_ok=True)
    rows: NDArray[np.float32] = np.lib.format.open_memmap(out, "w+", np.float32, shape)
    return rows


def _unit(part: NDArray[np.float32]) -> NDArray[np.float32]:
    from seedtalk.signals import unit_rows

    return unit_rows(part)


def _load(source: str, cache_dir: Path) -> tuple[Any, Any]:
    """Return a model that gives ``last_hidden_state``, in evaluation mode, and its tokenizer."""
    from transformers import AutoModel, AutoTokenizer

    from seedtalk.students import loading
    from seedtalk.students.kernels import speed_up

    folder = Path(source)
    if not folder.is_dir() and (
        folder.is_absolute() or source.startswith(".") or source.count("/") > 1
    ):
        raise InputError(
            f"{source}: no such folder; set its place in params.models, or run "
            "`seedtalk fetch quickstart` for the embedded encoder"
        )
    if not (folder / "config.json").is_file() and any(folder.glob("*.gguf")):
        model, tokenizer = loading.load_base(source, cache_dir=cache_dir)
        return model.base_model, tokenizer
    try:
        with loading.quiet():
            tokenizer = AutoTokenizer.from_pretrained(source)
            model = AutoModel.from_pretrained(source, use_safetensors=True, dtype="float32")
    except (OSError, ValueError) as error:
        raise InputError(
            f"embed.encoder: cannot read '{source}' ({str(error).splitlines()[0]}); an encoder "
            "is a folder with config.json, tokenizer and safetensors, or a model id of the hub"
        ) from error
    return speed_up(model.to(loading.device()).eval()), tokenizer


def _check_modules(source: str) -> None:
    """Refuse a sentence encoder that makes its vectors in a way that is not offered here."""
    listed = _read_json(source, "modules.json")
    if listed is None:
        return
    for module in listed:
        name = str(module["type"]).rsplit(".", 1)[-1]
        if name not in _MODULES:
            raise InputError(
                f"embed.encoder: {source}/modules.json has a {name} module, which is not offered; "
                f"name an encoder that has only {', '.join(_MODULES)}"
            )
        if name != "Pooling":
            continue
        config = _read_json(source, f"{module['path']}/config.json") or {}
        prefix = "pooling_mode_"
        asked = [key[len(prefix) :] for key, on in config.items() if key.startswith(prefix) and on]
        odd = [mode for mode in asked if mode not in _MODES]
        if odd:
            raise InputError(
                f"embed.encoder: {source}/{module['path']}/config.json pools by {', '.join(odd)}, "
                f"which is not offered; name an encoder that was trained with a pooling of "
                f"embed.pooling ({', '.join(POOLINGS)})"
            )


def _read_json(source: str, name: str) -> Any:
    """Return what a file of the encoder's folder, or of its page on the hub, says; None without."""
    from transformers.utils import cached_file

    path: str | None = str(Path(source) / name)
    if not Path(source).is_dir():
        path = cached_file(
            source,
            name,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    elif not Path(source, name).is_file():
        path = None
    if path is None:
        return None
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"embed.encoder: {source}/{name} is no JSON ({error})") from error


def _longest(model: Any) -> int | None:
    """Return the tokens a model has positions for, or None where nothing bounds them.

    RoBERTa and its kin count positions from the padding token's id + 1 on.
    """
    most: int | None = getattr(model.config, "max_position_embeddings", None)
    if most is None:
        return None
    for name, module in model.named_modules():
        if name.endswith("position_embeddings"):
            padding = getattr(module, "padding_idx", None)
            return most if padding is None else most - (padding + 1)
    return most


def _parts(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[NDArray[np.int64]]]:
    """Yield parts of about `_PART` texts, each a list of batches of row numbers.

    Longest first, so that what does not fit into memory fails at once. Texts without a token
    are left out.
    """
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    order = order[np.asarray(lengths, dtype=np.int64)[order] > 0]
    part: list[NDArray[np.int64]] = []
    start = 0
    while start < len(order):
        size = max(1, batch_tokens // lengths[order[start]])
        part.append(order[start : start + size])
        start += len(part[-1])
        if sum(map(len, part)) >= _PART or start >= len(order):
            yield part
            part = []


def _forward(
    model: Any, batch: Sequence[Sequence[int]], pad: int, pooling: str
) -> NDArray[np.float32]:
    """Return the pooled last hidden layer of one batch, (texts, d) float32."""
    import torch

    lengths = torch.tensor([len(ids) for ids in batch], device=model.device)
    width = int(lengths.max())
    ids = torch.tensor([[*row, *[pad] * (width - len(row))] for row in batch], device=model.device)
    mask = torch.arange(width, device=model.device)[None, :] < lengths[:, None]
    with torch.inference_mode():
        hidden = model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        if pooling == "last":
            pooled = hidden[torch.arange(len(batch), device=model.device), lengths - 1]
        else:
            weights = mask.to(hidden.dtype)
            if pooling == "weighted":
                weights = weights * torch.arange(1, width + 1, device=model.device)
            pooled = (hidden * weights[:, :, None]).sum(dim=1) / weights.sum(dim=1)[:, None]
    vectors: NDArray[np.float32] = pooled.float().cpu().numpy()
    return vectors


def _key(encoder: Encoder, tokens: Sequence[Sequence[int]], pooling: str, batch_tokens: int) -> str:
    """Return a digest of everything that a part depends on: weights, tokens and options."""
    digest = hashlib.sha256(f"{encoder.digest} {pooling} {batch_tokens} {_PART}".encode())
    for ids in tokens:
        digest.update(np.asarray([len(ids), *ids], dtype=np.int64).tobytes())
    return digest.hexdigest()[:32]


def _read_part(file: Path, shape: tuple[int, int]) -> NDArray[np.float32] | None:
    try:
        part: NDArray[np.float32] = np.load(file, allow_pickle=False)
    except (OSError, ValueError):
        return None
    return part if part.shape == shape and part.dtype == np.float32 else None


def _write_part(file: Path, part: NDArray[np.float32]) -> None:
    from seedtalk.records import atomic_file

    with atomic_file(file, "wb") as target:
        np.save(target, part, allow_pickle=False)
