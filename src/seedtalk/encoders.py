"""Texts to vectors: a sentence encoder, or a language model's last hidden layer.

The paper represents a review by the student's own last hidden layer; the embedded default,
MiniLM, is the light alternative. Both are pooled over real tokens only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seedtalk.errors import InputError
from seedtalk.progress import bar

POOLINGS = ("mean", "last")
# Texts of a part that is kept for resuming: a killed run does at most this many again.
_PART = 256


def encode(
    texts: Sequence[str],
    encoder: str,
    *,
    pooling: str = "mean",
    normalize: bool = True,
    max_tokens: int = 128,
    batch_tokens: int = 4096,
    cache_dir: Path,
    partial: Path | None = None,
) -> NDArray[np.float32]:
    """Return one vector a text.

    Texts of like length share a batch, so that little is padded; the batches do not change
    the result beyond rounding (about 1e-6).

    Parameters
    ----------
    texts
        Any strings; one without a token gives a row of zeros.
    encoder
        A local folder (in Hugging Face layout, or with one GGUF file) or a model id of the
        hub; of a causal language model the last hidden layer is used.
    pooling
        Over the last hidden layer: ``mean`` of the real tokens or the ``last`` real token.
    normalize
        Scale every vector to length 1.
    max_tokens
        Tokens read of a text, special tokens included.
    batch_tokens
        Tokens in a batch, padding included (a batch holds one text at least).
    cache_dir
        Where a GGUF model is kept as safetensors once converted.
    partial
        Folder for finished parts. Where given, a run that is cut off goes on from them; the
        caller removes it once the vectors are safe. Parts of other texts, weights or options
        are never used.

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
    model, tokenizer = _load(encoder, cache_dir)
    if model.config.is_encoder_decoder:
        raise InputError(
            f"embed.encoder: '{encoder}' is an encoder-decoder; name a sentence encoder or "
            "a causal language model"
        )
    model.config.use_cache = False  # keys and values are for generation
    longest = getattr(model.config, "max_position_embeddings", max_tokens)
    if max_tokens > longest:
        raise InputError(
            f"embed.max_tokens: {max_tokens} is over the {longest} tokens that '{encoder}' reads"
        )
    tokens: list[list[int]] = []
    if texts:
        tokens = tokenizer(list(texts), truncation=True, max_length=max_tokens)["input_ids"]
    parts = list(_parts([len(ids) for ids in tokens], batch_tokens))
    store = None
    if partial is not None:
        store = partial / _key(model, tokens, pooling, batch_tokens)
    vectors = np.zeros((len(tokens), model.config.hidden_size), dtype=np.float32)
    with bar("embed", len(tokens)) as shown:
        for number, part in enumerate(parts):
            rows = np.concatenate(part)
            file = None if store is None else store / f"{number:06d}.npy"
            done = None if file is None else _read_part(file, (len(rows), vectors.shape[1]))
            if done is None:
                pad = tokenizer.pad_token_id or 0  # masked, so any token serves
                done = np.concatenate(
                    [_forward(model, [tokens[i] for i in batch], pad, pooling) for batch in part]
                )
                if file is not None:
                    _write_part(file, done)
            vectors[rows] = done
            shown.advance(len(rows))
    if normalize:
        from seedtalk.signals import unit_rows

        vectors = unit_rows(vectors)
    return vectors


def _load(source: str, cache_dir: Path) -> tuple[Any, Any]:
    """Return a model that gives ``last_hidden_state``, in evaluation mode, and its tokenizer."""
    from transformers import AutoModel, AutoTokenizer

    from seedtalk.students import loading

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
    return model.to(loading.device()).eval(), tokenizer


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
            pooled = (hidden * mask[:, :, None]).sum(dim=1) / lengths[:, None]
    vectors: NDArray[np.float32] = pooled.float().cpu().numpy()
    return vectors


def _key(model: Any, tokens: Sequence[Sequence[int]], pooling: str, batch_tokens: int) -> str:
    """Return a digest of everything that a part depends on: weights, tokens and options."""
    import torch

    digest = hashlib.sha256(f"{pooling} {batch_tokens} {_PART}".encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
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
