"""ESM-2 and DNABERT-S over sequences of different lengths without padding.

The tokens of a batch lie one behind another, and every layer but attention works on each token
alone. Attention is computed for each run of sequences of one length, of which a batch in order of
length has few. The tensors have the names that transformers and DNABERT-S's own code give them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch.nn import functional

from virnucpro_exporter.processors.batching import Tokens

# PyTorch may be built without oneDNN.
_HAS_PACKING = torch.backends.mkldnn.is_available() and hasattr(
    torch.ops.mkldnn, "_reorder_linear_weight"
)
ALIKE = 1e-4  # how far two ways to compute one vector may be apart
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
        bias = None if self.bias is None else self.bias.to(values.dtype)
        return functional.linear(values, self.weight.to(values.dtype), bias)


class _Tensors:
    """Makes layers of the tensors of a model, which come one after the other from where they are.

    Args:
        read: Gives the tensor of a name.
        device: Where they go.
        dtype: Type of the weights of linear layers.
        eps: What layer normalisations add to the variance.
    """

    def __init__(self, read: Callable[[str], Any], device: Any, dtype: Any, eps: float) -> None:
        self._read = read
        self._device = device
        self._dtype = dtype
        self._eps = eps

    def linear(self, *names: str, has_bias: bool = True) -> _Linear:
        """One layer of several, whose results lie side by side."""
        weight = torch.cat([self.tensor(f"{name}.weight", self._dtype) for name in names])
        bias = None
        if has_bias:
            bias = torch.cat([self.tensor(f"{name}.bias", self._dtype) for name in names])
        if self._device.type == "cpu" and self._dtype is torch.float32 and _HAS_PACKING:
            packed = torch.ops.mkldnn._reorder_linear_weight(weight)  # noqa: SLF001 - as above
            return _Linear(None, bias, packed)
        return _Linear(weight, bias)

    def norm(self, name: str) -> _Norm:
        """A layer normalisation."""
        return _Norm(self.tensor(f"{name}.weight"), self.tensor(f"{name}.bias"), self._eps)

    def tensor(self, name: str, dtype: Any = torch.float32) -> Any:
        """A tensor on the device."""
        return self._read(name).to(self._device, dtype)


class _Run(NamedTuple):
    """Sequences of one length that lie one behind another."""

    start: int
    end: int
    length: int


class _EsmLayer(NamedTuple):
    """One layer of the encoder of an ESM-2."""

    before_attention: _Norm
    inputs: _Linear  # query, key and value in one
    attended: _Linear
    before_inner: _Norm
    inner: _Linear
    outer: _Linear


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
        self.is_exact = dtype is torch.float32
        self._heads: int = config.num_attention_heads
        self._size: int = config.hidden_size // config.num_attention_heads
        tensors = _Tensors(weights, device, dtype, config.layer_norm_eps)
        self._words = tensors.tensor("embeddings.word_embeddings.weight")
        self._scale = 1 - MASKED_IN_TRAINING if config.token_dropout else 1.0
        self._rotations = _rotations(0, self._size, device)
        self._layers = [_esm_layer(tensors, number) for number in range(config.num_hidden_layers)]
        self._last = tensors.norm("encoder.emb_layer_norm_after")

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
        return _means(values, runs, edges=1)

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


def _esm_layer(tensors: _Tensors, number: int) -> _EsmLayer:
    base = f"encoder.layer.{number}"
    parts = (f"{base}.attention.self.{name}" for name in ("query", "key", "value"))
    return _EsmLayer(
        tensors.norm(f"{base}.attention.LayerNorm"),
        tensors.linear(*parts),
        tensors.linear(f"{base}.attention.output.dense"),
        tensors.norm(f"{base}.LayerNorm"),
        tensors.linear(f"{base}.intermediate.dense"),
        tensors.linear(f"{base}.output.dense"),
    )


def _rotations(length: int, size: int, device: Any) -> tuple[Any, Any]:
    """Cosines and sines, one row for each place."""
    frequencies = 1.0 / (10000 ** (torch.arange(0, size, 2, dtype=torch.int64).float() / size))
    angles = torch.outer(torch.arange(length).float(), frequencies).to(device)
    return angles.cos(), angles.sin()


class _BertLayer(NamedTuple):
    """One layer of the encoder of a DNABERT-S."""

    inputs: _Linear  # query, key and value in one
    attended: _Linear
    after_attention: _Norm
    inner: _Linear  # the gate, and what it lets through
    outer: _Linear
    after_outer: _Norm


class PackedBert:
    """A BERT as DNABERT-S is one: attention falls with distance, and the inner layer has a gate.

    Args:
        config: The configuration of the model.
        weights: Gives the tensor of a name.
        device: Where it computes.
        dtype: In what type linear layers and attention compute.

    Attributes:
        is_exact: It computes in float32 in any case.

    Raises:
        KeyError: A tensor is missing.
    """

    def __init__(self, config: Any, weights: Callable[[str], Any], device: Any, dtype: Any) -> None:
        self._device = device
        self._dtype = dtype
        self.is_exact = dtype is torch.float32
        self._heads: int = config.num_attention_heads
        self._size: int = config.hidden_size // config.num_attention_heads
        tensors = _Tensors(weights, device, dtype, config.layer_norm_eps)
        self._words = tensors.tensor("embeddings.word_embeddings.weight")
        self._first_type = tensors.tensor("embeddings.token_type_embeddings.weight")[0]
        self._first = tensors.norm("embeddings.LayerNorm")
        self._layers = [_bert_layer(tensors, number) for number in range(config.num_hidden_layers)]
        self._slopes = torch.tensor(_slopes(self._heads), device=device)

    def means(self, batch: Sequence[Tokens], *, is_exact: bool = False) -> Any:
        """The mean of the last layer over all tokens of each sequence.

        Args:
            batch: The tokens of each sequence; those of like length side by side.
            is_exact: Compute in float32 whatever the type of the weights.

        Returns:
            float32, one row for each sequence.
        """
        dtype = torch.float32 if is_exact else self._dtype
        runs = list(_runs(batch))
        tokens = torch.tensor(list(itertools.chain.from_iterable(batch)), dtype=torch.int32)
        words = functional.embedding(tokens.to(self._device), self._words)
        values = self._first(words + self._first_type)
        biases = [self._bias(run.length).to(dtype) for run in runs]
        for layer in self._layers:
            attended = self._attend(layer.inputs(values.to(dtype)), runs, biases)
            values = layer.after_attention(values + layer.attended(attended))
            gate, inner = layer.inner(values.to(dtype)).chunk(2, dim=-1)
            values = layer.after_outer(values + layer.outer(functional.gelu(gate) * inner))
        return _means(values, runs, edges=0)

    def _bias(self, length: int) -> Any:
        """What attention loses by the distance of two tokens, for each head."""
        places = torch.arange(length, device=self._device)
        return -self._slopes[:, None, None] * (places[:, None] - places).abs()

    def _attend(self, inputs: Any, runs: Sequence[_Run], biases: Sequence[Any]) -> Any:
        """Attention within each sequence."""
        attended = torch.empty_like(inputs[:, : self._heads * self._size])
        for run, bias in zip(runs, biases, strict=True):
            shape = (-1, run.length, 3, self._heads, self._size)
            parts = inputs[run.start : run.end].view(shape).permute(2, 0, 3, 1, 4)
            found = functional.scaled_dot_product_attention(*parts, attn_mask=bias)
            target = attended[run.start : run.end].view(-1, run.length, self._heads, self._size)
            target.copy_(found.transpose(1, 2))
        return attended


def pack_bert(module: Any, samples: Sequence[Tokens], device: Any, dtype: Any) -> PackedBert | None:
    """A BERT without padding, where a model is one of DNABERT-S's kind.

    Whether it is cannot be known from its names alone, since it consists of code of its own. So the
    two are compared on a few sequences.

    Args:
        module: The model, with its weights in float32, in the main memory.
        samples: The tokens of a few sequences.
        device: Where it computes.
        dtype: In what type linear layers and attention compute.

    Returns:
        None: the model is another one.
    """
    tensors = module.state_dict()
    try:
        exact = PackedBert(module.config, tensors.__getitem__, torch.device("cpu"), torch.float32)
        with torch.inference_mode():
            found = exact.means(samples)
            expected = [module(torch.tensor([list(tokens)]))[0].mean(1) for tokens in samples]
    except (AttributeError, IndexError, KeyError, RuntimeError):  # it has other layers
        return None
    if not torch.allclose(found, torch.cat(expected), atol=ALIKE):
        return None
    if device.type == "cpu" and exact.is_exact and dtype is torch.float32:
        return exact
    return PackedBert(module.config, tensors.__getitem__, device, dtype)


def _bert_layer(tensors: _Tensors, number: int) -> _BertLayer:
    base = f"encoder.layer.{number}"
    return _BertLayer(
        tensors.linear(f"{base}.attention.self.Wqkv"),
        tensors.linear(f"{base}.attention.output.dense"),
        tensors.norm(f"{base}.attention.output.LayerNorm"),
        tensors.linear(f"{base}.mlp.gated_layers", has_bias=False),
        tensors.linear(f"{base}.mlp.wo"),
        tensors.norm(f"{base}.mlp.layernorm"),
    )


def _slopes(heads: int) -> list[float]:
    """How fast attention falls with distance, for each head: a geometric series from 1 down.

    Where their number is no power of two, every second one of a finer series is put behind.
    """
    power = 1 << (heads.bit_length() - 1)
    series = [2.0 ** (-8.0 * (head + 1) / power) for head in range(power)]
    finer = [2.0 ** (-8.0 * (head + 0.5) / power) for head in range(heads - power)]
    return series + finer


def _means(values: Any, runs: Sequence[_Run], *, edges: int) -> Any:
    """The mean over the tokens of each sequence, without so many at each end."""
    width = values.shape[-1]
    whole = (values[run.start : run.end].view(-1, run.length, width) for run in runs)
    return torch.cat([rows[:, edges : rows.shape[1] - edges].mean(1) for rows in whole])


def _runs(batch: Sequence[Tokens]) -> Iterator[_Run]:
    start = 0
    for length, group in itertools.groupby(map(len, batch)):
        end = start + length * sum(1 for _ in group)
        yield _Run(start, end, length)
        start = end
