"""ESM-2 over sequences of different lengths without padding.

The tokens of a batch lie one behind another, and every layer but attention works on each token
alone. Attention is computed for each run of sequences of one length, of which a batch in order of
length has few. The tensors have the names that transformers gives them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch.nn import functional

# PyTorch may be built without oneDNN.
_HAS_PACKING = torch.backends.mkldnn.is_available() and hasattr(
    torch.ops.mkldnn, "_reorder_linear_weight"
)
MASKED_IN_TRAINING = 0.15 * 0.8  # share of tokens that were hidden; embeddings are scaled by it


class _Norm(NamedTuple):
    """A layer normalisation, computed in float32."""

    weight: Any
    bias: Any
    eps: float

    def __call__(self, values: Any) -> Any:
        """The normalised values."""
        return functional.layer_norm(values, (values.shape[-1],), self.weight, self.bias, self.eps)


class _Linear(NamedTuple):
    """A linear layer, whose weights may be rounded to two bytes.

    `packed` are the weights in the order in which oneDNN multiplies them, on CPUs: that takes an
    eighth less time than with rows, which would have to be put in order for each batch.
    """

    weight: Any
    bias: Any
    packed: Any = None

    def __call__(self, values: Any) -> Any:
        """Its product with the values, in their type."""
        if self.packed is not None:
            return torch.ops.mkldnn._linear_pointwise(  # noqa: SLF001 - what compiled models call
                values, self.packed, self.bias, "none", [], ""
            )
        return functional.linear(values, self.weight.to(values.dtype), self.bias.to(values.dtype))


class _Layer(NamedTuple):
    """One layer of the encoder."""

    before_attention: _Norm
    inputs: _Linear  # query, key and value in one
    attended: _Linear
    before_inner: _Norm
    inner: _Linear
    outer: _Linear


class _Run(NamedTuple):
    """Sequences of one length that lie one behind another."""

    start: int
    end: int
    length: int


def can_pack(config: Any) -> bool:
    """Whether a model of this configuration is an ESM-2, whose positions are rotations."""
    return (
        config.position_embedding_type == "rotary"
        and not config.emb_layer_norm_before
        and not getattr(config, "is_decoder", False)
    )


class PackedEsm:
    """An ESM-2 on a device, whose tensors come one after the other from where they are stored.

    Args:
        config: The configuration of the model, for which `can_pack` holds.
        weights: Gives the tensor of a name.
        device: Where it computes.
        dtype: In what type linear layers and attention compute.

    Attributes:
        is_exact: It computes in float32 in any case.
    """

    def __init__(self, config: Any, weights: Callable[[str], Any], device: Any, dtype: Any) -> None:
        self._device = device
        self._dtype = dtype
        self._weights = weights
        self.is_exact = dtype is torch.float32
        self._heads: int = config.num_attention_heads
        self._size: int = config.hidden_size // config.num_attention_heads
        self._eps: float = config.layer_norm_eps
        self._words = self._tensor("embeddings.word_embeddings.weight")
        self._scale = 1 - MASKED_IN_TRAINING if config.token_dropout else 1.0
        self._rotations = _rotations(0, self._size, device)
        self._layers = [self._layer(number) for number in range(config.num_hidden_layers)]
        self._last = self._norm("encoder.emb_layer_norm_after")
        del self._weights

    def _layer(self, number: int) -> _Layer:
        base = f"encoder.layer.{number}"
        parts = (f"{base}.attention.self.{name}" for name in ("query", "key", "value"))
        return _Layer(
            self._norm(f"{base}.attention.LayerNorm"),
            self._linear(*parts),
            self._linear(f"{base}.attention.output.dense"),
            self._norm(f"{base}.LayerNorm"),
            self._linear(f"{base}.intermediate.dense"),
            self._linear(f"{base}.output.dense"),
        )

    def _linear(self, *names: str) -> _Linear:
        weight = torch.cat([self._tensor(f"{name}.weight", self._dtype) for name in names])
        bias = torch.cat([self._tensor(f"{name}.bias", self._dtype) for name in names])
        if self._device.type == "cpu" and self._dtype is torch.float32 and _HAS_PACKING:
            packed = torch.ops.mkldnn._reorder_linear_weight(weight)  # noqa: SLF001 - as above
            return _Linear(None, bias, packed)
        return _Linear(weight, bias)

    def _norm(self, name: str) -> _Norm:
        return _Norm(self._tensor(f"{name}.weight"), self._tensor(f"{name}.bias"), self._eps)

    def _tensor(self, name: str, dtype: Any = torch.float32) -> Any:
        return self._weights(name).to(self._device, dtype)

    def means(self, batch: Sequence[bytes], *, is_exact: bool = False) -> Any:
        """The mean of the last layer over each sequence, the tokens at its two ends left out.

        Args:
            batch: The tokens of each sequence, a byte each; those of like length side by side.
            is_exact: Compute in float32 whatever the type of the weights.

        Returns:
            float32, one row for each sequence.
        """
        dtype = torch.float32 if is_exact else self._dtype
        runs = list(_runs(batch))
        tokens = torch.frombuffer(bytearray(b"".join(batch)), dtype=torch.uint8)
        values = functional.embedding(tokens.to(self._device).int(), self._words) * self._scale
        turns = self._turns(runs, dtype)
        for layer in self._layers:
            inputs = layer.inputs(layer.before_attention(values).to(dtype))
            values += layer.attended(self._attend(inputs, runs, turns))
            inner = layer.inner(layer.before_inner(values).to(dtype))
            values += layer.outer(functional.gelu(inner))
        values = self._last(values)
        width = values.shape[-1]
        means = [values[r.start : r.end].view(-1, r.length, width)[:, 1:-1].mean(1) for r in runs]
        return torch.cat(means)

    def _turns(self, runs: Sequence[_Run], dtype: Any) -> tuple[Any, Any]:
        """Cosine and sine of the rotation of each token, by its place in its sequence."""
        longest = max(run.length for run in runs)
        if longest > self._rotations[0].shape[0]:
            self._rotations = _rotations(longest, self._size, self._device)
        places = [
            torch.arange(run.length, device=self._device).repeat(
                (run.end - run.start) // run.length
            )
            for run in runs
        ]
        place = torch.cat(places)
        cosine, sine = (table[place].to(dtype)[:, None, None, :] for table in self._rotations)
        return cosine, sine

    def _attend(self, inputs: Any, runs: Sequence[_Run], turns: tuple[Any, Any]) -> Any:
        """Attention within each sequence."""
        cosine, sine = turns
        parts = inputs.view(-1, 3, self._heads, self._size)
        first, second = parts[:, :2].chunk(2, dim=-1)
        turned = torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1)
        attended = torch.empty_like(inputs[:, : self._heads * self._size])
        for run in runs:
            shape = (-1, run.length, self._heads, self._size)
            query, key, value = (
                part[run.start : run.end].view(shape).transpose(1, 2)
                for part in (turned[:, 0], turned[:, 1], parts[:, 2])
            )
            found = functional.scaled_dot_product_attention(query, key, value)
            target = attended[run.start : run.end].view(shape)
            target.copy_(found.transpose(1, 2))
        return attended


def _rotations(length: int, size: int, device: Any) -> tuple[Any, Any]:
    """Cosines and sines, one row for each place."""
    frequencies = 1.0 / (10000 ** (torch.arange(0, size, 2, dtype=torch.int64).float() / size))
    angles = torch.outer(torch.arange(length).float(), frequencies).to(device)
    return angles.cos(), angles.sin()


def _runs(batch: Sequence[bytes]) -> Iterator[_Run]:
    start = 0
    for length, group in itertools.groupby(map(len, batch)):
        end = start + length * sum(1 for _ in group)
        yield _Run(start, end, length)
        start = end
