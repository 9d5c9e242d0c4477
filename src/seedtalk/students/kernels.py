"""The same sums in less time: linear layers, attention of packed rows, the language-model head.

Nothing here changes what a model computes, but for the order in which numbers are added.
"""

from __future__ import annotations

import functools
import itertools
import platform
from collections.abc import Callable, Sequence
from typing import Any

PACKED = "seedtalk_packed"  # the attention of `pack_attention`, as transformers' config names it
HEAD_VALUES = 2**23  # logits in memory at once: 32 MiB in float32


def speed_up(model: Any) -> Any:
    """Send the float32 linear layers of a model on the CPU through oneDNN, and return the model.

    PyTorch multiplies float32 matrices with MKL, which leaves the 512-bit units of processors
    that are not Intel's unused; oneDNN uses them on all. The weights, their names and their
    places stay as they are.

    Parameters
    ----------
    model
        A `torch.nn.Module`; changed in place. Layers that are added later need another call.
    """
    import torch

    if _onednn():
        kind = _linear_layer()
        for module in model.modules():
            if type(module) is torch.nn.Linear:
                module.__class__ = kind
    return model


def pack_attention(model: Any) -> None:
    """Let the model attend within the parts of a packed row only.

    The parts are told in each call by ``parts``, the places where they begin and, last, the
    row's end. A call without them computes causal attention over whole rows.

    Raises
    ------
    ValueError
        When the model's attention cannot be exchanged.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(PACKED, _packed_attention)
    model.set_attn_implementation(PACKED)
    if model.config.get_text_config()._attn_implementation != PACKED:
        raise ValueError("its attention cannot be exchanged")


def head_loss(model: Any) -> Callable[[Any, Any], Any] | None:
    """Return the summed cross-entropy of a model's head, or None where the head is not known.

    Known are a linear head by itself and one whose logits are capped (Gemma 2), multiplied
    (Cohere) or divided (Granite) by a number of the config.

    Parameters
    ----------
    model
        A transformers causal language model.

    Returns
    -------
    callable or None
        From hidden states (positions, width) and the tokens that follow them (positions,) to
        the sum of -log p in nats, float32. The logits of all positions are never in memory
        together, and going back costs no second pass over the vocabulary.
    """
    import torch

    config = model.config.get_text_config()
    head = model.get_output_embeddings()
    if not isinstance(head, torch.nn.Linear) or getattr(config, "output_router_logits", False):
        return None
    cap = getattr(config, "final_logit_softcapping", None) or 0.0
    scale = getattr(config, "logit_scale", None) or 1.0
    scale /= getattr(config, "logits_scaling", None) or 1.0

    def loss(hidden: Any, targets: Any) -> Any:
        inputs = [hidden, head.weight, head.bias]
        if not torch.is_grad_enabled():  # else gradients that nobody asks for would be taken
            inputs = [None if tensor is None else tensor.detach() for tensor in inputs]
        return _head_function().apply(*inputs, targets, scale, cap)

    return loss


def logits_loss(logits: Any, targets: Any, kept: Any) -> Any:
    """Return the summed cross-entropy of some positions, in float32 a few rows at a time.

    Parameters
    ----------
    logits
        Shape (rows, positions, vocabulary), of any float type.
    targets, kept
        Shape (rows, positions): the tokens that follow, and which of them count.
    """
    import torch

    total = torch.zeros((), dtype=torch.float32, device=logits.device)
    for places in kept.nonzero().split(max(16, HEAD_VALUES // logits.shape[-1])):
        row, position = places.unbind(1)
        total += torch.nn.functional.cross_entropy(
            logits[row, position].float(), targets[row, position], reduction="sum"
        )
    return total


@functools.cache
def _onednn() -> bool:
    import torch

    fitting = platform.machine().lower() in ("x86_64", "amd64")
    return fitting and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _product(left: Any, right: Any, bias: Any = None) -> Any:
    """Return left right' + bias of two matrices, through oneDNN where it takes them."""
    import torch

    float32 = left.dtype == right.dtype == torch.float32
    if float32 and left.device.type == "cpu" and left.numel() and _onednn():
        return torch.ops.mkldnn._linear_pointwise(left, right, bias, "none", [], "")
    return torch.nn.functional.linear(left, right, bias)


@functools.cache
def _linear_layer() -> Any:
    import torch

    class Product(torch.autograd.Function):
        """`_product` of x (rows, in) and a weight (out, in), its gradients likewise."""

        @staticmethod
        def forward(context: Any, x: Any, weight: Any, bias: Any) -> Any:
            context.save_for_backward(x, weight)
            return _product(x, weight, bias)

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(context: Any, *gradients: Any) -> Any:
            x, weight = context.saved_tensors
            (gradient,) = gradients
            wanted = context.needs_input_grad
            return (
                _product(gradient, weight.t()) if wanted[0] else None,
                _product(gradient.t(), x.t()) if wanted[1] else None,
                gradient.sum(0) if wanted[2] else None,
            )

    apply: Any = Product.apply

    class Linear(torch.nn.Linear):
        """`torch.nn.Linear`; what is not float32 on the CPU goes the old way."""

        def forward(self, input: Any) -> Any:
            weight = self.weight
            float32 = input.dtype == weight.dtype == torch.float32
            on_cpu = input.device.type == weight.device.type == "cpu"
            if not (float32 and on_cpu) or torch.is_autocast_enabled("cpu"):
                return super().forward(input)
            rows = input.reshape(-1, input.shape[-1])
            found: Any = apply(rows, weight, self.bias)
            return found.view(*input.shape[:-1], weight.shape[0])

    return Linear


@functools.cache
def _head_function() -> Any:
    import torch

    class HeadLoss(torch.autograd.Function):
        """Sum of -log softmax(cap tanh(scale (h W' + b) / cap))[target].

        The gradients by h, W and b are those of the softmax, known as soon as the loss is:
        taken chunk by chunk on the way, they are only scaled going back.
        """

        @staticmethod
        def forward(
            context: Any,
            hidden: Any,
            weight: Any,
            bias: Any,
            targets: Any,
            scale: float,
            cap: float,
        ) -> Any:
            kind = hidden.device.type
            mixed = torch.is_autocast_enabled(kind)
            narrow = torch.get_autocast_dtype(kind) if mixed else weight.dtype
            wanted = context.needs_input_grad[:3]
            inputs = (hidden, weight, bias)
            gradients = [
                torch.zeros_like(tensor) if want else None
                for tensor, want in zip(inputs, wanted, strict=True)
            ]
            total = torch.zeros((), dtype=torch.float32, device=hidden.device)
            rows = max(16, HEAD_VALUES // weight.shape[0])
            with torch.autocast(kind, enabled=False):
                table = weight.to(narrow)
                for start in range(0, len(hidden), rows):
                    part = slice(start, start + rows)
                    states, following = hidden[part].to(narrow), targets[part, None]
                    logits = _product(states, table).float()
                    if bias is not None:
                        logits += bias
                    logits *= scale
                    slope = None
                    if cap:
                        logits.div_(cap).tanh_()
                        slope = 1 - logits.square() if any(wanted) else None
                        logits *= cap
                    top = logits.amax(1, keepdim=True)
                    total -= (logits.gather(1, following) - top).sum()
                    logits.sub_(top).exp_()
                    mass = logits.sum(1, keepdim=True)
                    total += mass.log().sum()
                    if not any(wanted):
                        continue
                    logits /= mass
                    logits.scatter_add_(1, following, -torch.ones_like(mass))
                    if slope is not None:
                        logits *= slope
                    logits *= scale
                    change = logits.to(narrow)
                    if gradients[0] is not None:
                        gradients[0][part] = _product(change, table.t())
                    if gradients[1] is not None:
                        gradients[1] += _product(change.t(), states.t())
                    if gradients[2] is not None:
                        gradients[2] += logits.sum(0)
            context.gradients = gradients
            return total

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(context: Any, *outer: Any) -> Any:
            found = [g if g is None else g * outer[0] for g in context.gradients]
            return (*found, None, None, None)

    return HeadLoss


def _packed_attention(
    module: Any,
    query: Any,
    key: Any,
    value: Any,
    attention_mask: Any,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    sliding_window: int | None = None,
    parts: Sequence[int] | None = None,
    **_: Any,
) -> tuple[Any, None]:
    """Attend causally within each part of a row: attention as transformers' interface has it.

    Parameters
    ----------
    query, key, value
        Shape (rows, heads, positions, width); keys and values may have fewer heads.
    attention_mask
        None: transformers makes no mask for an attention that it does not know.
    softcap
        Of the scores: cap tanh(score / cap), as in Gemma 2.
    sliding_window
        Positions seen at most, the own one included.
    parts
        Where parts begin, and the row's end; None is one part.

    Returns
    -------
    tuple
        Shape (rows, positions, heads, width), and None for the weights.
    """
    import torch

    size = query.shape[2]
    ends = parts or [0, size]
    shared = query.shape[1] // key.shape[1]
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    found = []
    for start, stop in itertools.pairwise(ends):
        q, k, v = (tensor[:, :, start:stop] for tensor in (query, key, value))
        mask: Any = None
        if softcap or (sliding_window and stop - start > sliding_window):
            mask = torch.ones(stop - start, stop - start, dtype=torch.bool, device=q.device).tril()
            if sliding_window:
                mask = mask.triu(1 - sliding_window)
        if not softcap:
            out = torch.nn.functional.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=mask is None,
                scale=scaling, enable_gqa=shared > 1,
            )  # fmt: skip
        else:
            k, v = (tensor.repeat_interleave(shared, 1) for tensor in (k, v))
            scores = (q @ k.transpose(2, 3)) * scaling
            scores = (scores / softcap).tanh() * softcap
            scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
            weights = scores.softmax(-1, dtype=torch.float32).to(q.dtype)
            out = torch.nn.functional.dropout(weights, dropout, module.training) @ v
        found.append(out)
    return torch.cat(found, 2).transpose(1, 2).contiguous(), None
