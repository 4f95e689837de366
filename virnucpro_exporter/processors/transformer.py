"""A loaded model on the worker's device, and the vectors that it makes."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
import transformers

from virnucpro_exporter.errors import ProcessorError
from virnucpro_exporter.processors.batching import Batcher, Tokens
from virnucpro_exporter.processors.packed import PackedEsm, can_pack, pack_bert
from virnucpro_exporter.processors.weights import open_weights

AMPERE = (8, 0)  # the first GPUs that compute in bfloat16
UNUSED = ("pooler.", "contact_head.")
PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
# On which the two ways to compute a BERT are compared.
SAMPLES = (b"GATTACA" * 9, b"ACGTTGCAAC" * 12, b"ACG", b"CCATGGTTAA" * 12)
# On a CPU, what is in the caches counts; on a GPU, that all of its units are busy.
TOKENS_ON_CPU, TOKENS_ON_GPU = 1024, 8192
# Batches that wait on a GPU beside the one in process, so that it never waits for the next.
AHEAD = 1


class Network(Protocol):
    """What computes the vectors of a batch."""

    @property
    def is_exact(self) -> bool:
        """It computes in float32 in any case."""

    def means(self, batch: Sequence[Any], *, is_exact: bool = False) -> Any:
        """The mean of the last layer over each sequence: float32, one row for each."""


class Model:
    """A transformer that makes one vector of each sequence.

    Args:
        network: Computes them.
        encode: Makes tokens of sequences, special ones included.
        device: Where the network computes.
        batcher: Cuts the batches.
        width: Values of a vector.
        longest: The most tokens that the model takes, or None where it has no limit.

    Attributes:
        encode, device, width, longest: As above.
    """

    def __init__(
        self,
        network: Network,
        encode: Callable[[Sequence[bytes]], Sequence[Tokens]],
        *,
        device: Any,
        batcher: Batcher,
        width: int,
        longest: int | None = None,
    ) -> None:
        self.encode = encode
        self.device = device
        self.width = width
        self.longest = longest
        self._network = network
        self._batcher = batcher

    @property
    def shortages(self) -> int:
        """How often a batch did not fit into the memory."""
        return self._batcher.shortages

    def vectors(self, sequences: Sequence[Tokens], report: Callable[[Sequence[int]], None]) -> Any:
        """Make the mean of the last hidden layer over each sequence.

        Rows that are not finite are made once more in float32, where the model computes in less.
        They may still not be finite: then the model is at fault, or the GPU.

        Args:
            sequences: The tokens of each, at least one of them.
            report: Called after each batch with the indices of its sequences.

        Returns:
            float32, one row for each sequence, on the device.

        Raises:
            MemoryError: A sequence alone does not fit into the memory.
        """
        made = self._embed(sequences, report)
        if not self._network.is_exact and (odd := not_finite(made)):
            again = self._embed([sequences[row] for row in odd], lambda _: None, is_exact=True)
            made[torch.tensor(odd, device=made.device)] = again
        return made

    def _embed(
        self,
        sequences: Sequence[Tokens],
        report: Callable[[Sequence[int]], None],
        *,
        is_exact: bool = False,
    ) -> Any:
        def embed(batch: Sequence[Tokens]) -> Any:
            return self._means(batch, is_exact=is_exact)

        order: list[int] = []
        parts = []
        under_way: deque[tuple[list[int], Any]] = deque()
        for indices, rows in self._batcher.batches(sequences, embed):
            order += indices
            parts.append(rows)
            under_way.append((indices, self._mark()))
            while len(under_way) > (AHEAD if self.device.type == "cuda" else 0):
                _finish(*under_way.popleft(), report)
        while under_way:
            _finish(*under_way.popleft(), report)
        if not parts:
            return torch.empty(0, self.width, device=self.device)
        made = torch.empty(len(order), self.width, device=self.device)
        made[torch.tensor(order, device=self.device)] = torch.cat(parts)
        return made

    def _mark(self) -> Any:
        """What can be waited for: that the GPU has done all that it was given so far."""
        if self.device.type != "cuda":
            return None
        event = torch.cuda.Event()
        event.record()
        return event

    def _means(self, batch: Sequence[Tokens], *, is_exact: bool) -> Any:
        try:
            with torch.inference_mode():
                return self._network.means(batch, is_exact=is_exact)
        except torch.cuda.OutOfMemoryError as error:
            reason = str(error)
        # Here the traceback is gone, and with it all that still held memory of the batch.
        torch.cuda.empty_cache()
        raise MemoryError(reason)


def _finish(indices: list[int], mark: Any, report: Callable[[Sequence[int]], None]) -> None:
    if mark is not None:
        mark.synchronize()
    report(indices)


class Padded:
    """A module of transformers, whose shorter sequences of a batch are filled up.

    Args:
        module: The module, with its weights in float32.
        device: Where it computes.
        dtype: In what type linear layers and attention compute.
        padding: The token that fills up.
        edges: How many tokens at each end the mean leaves out.

    Attributes:
        is_exact: It computes in float32 in any case.
    """

    def __init__(self, module: Any, device: Any, dtype: Any, *, padding: int, edges: int) -> None:
        self._module = module.eval().to(device)
        self._device = device
        self._dtype = dtype
        self._padding = padding
        self._edges = edges
        self.is_exact = dtype is torch.float32

    def means(self, batch: Sequence[Tokens], *, is_exact: bool = False) -> Any:
        """The mean of the last layer over each sequence; padding never counts."""
        rows = [torch.tensor(list(tokens)) for tokens in batch]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self._padding)
        lengths = torch.tensor([[len(tokens)] for tokens in batch])
        positions = torch.arange(ids.shape[1])
        mask = (positions < lengths).long()
        counted = (positions >= self._edges) & (positions < lengths - self._edges)
        is_rounding = not (is_exact or self.is_exact)
        with torch.autocast(
            self._device.type, self._dtype if is_rounding else None, enabled=is_rounding
        ):
            hidden = self._module(
                input_ids=ids.to(self._device), attention_mask=mask.to(self._device)
            )[0]
        ignored = ~counted.unsqueeze(-1).to(self._device)
        sums = hidden.float().masked_fill(ignored, 0.0).sum(dim=1)
        return sums / (lengths - 2 * self._edges).to(self._device)


def load_esm2(folder: str, gpu: str, *, tokens_per_batch: int | None, precision: str) -> Model:
    """Load an ESM-2, to embed proteins without their special tokens.

    Args:
        folder: Holds the model and its tokenizer.
        gpu: The worker's id.
        tokens_per_batch: The most tokens that go through it together; None: as many as suit.
        precision: A name of `PRECISIONS`; or `auto`: bfloat16 where the GPU has it, else float32.

    Raises:
        ProcessorError: The model is incomplete, or PyTorch cannot use the GPU.
    """
    device = _device(gpu)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    letters = _letter_table(tokenizer.get_vocab(), tokenizer.unk_token_id)
    first, last = bytes([tokenizer.cls_token_id]), bytes([tokenizer.eos_token_id])
    is_able = device.type == "cuda" and torch.cuda.get_device_capability() >= AMPERE
    dtype = (
        PRECISIONS["bf16" if is_able else "fp32"] if precision == "auto" else PRECISIONS[precision]
    )

    def encode(sequences: Sequence[bytes]) -> Sequence[Tokens]:
        return [first + sequence.translate(letters) + last for sequence in sequences]

    batcher = _batcher(tokens_per_batch, device, is_packed=can_pack(config))
    if can_pack(config):
        network: Network = PackedEsm(config, open_weights(folder, device), device, dtype)
        width: int = config.hidden_size
        return Model(network, encode, device=device, batcher=batcher, width=width)
    module, found = transformers.EsmModel.from_pretrained(
        folder,
        add_pooling_layer=False,
        dtype=torch.float32,
        local_files_only=True,
        output_loading_info=True,
    )
    _check_weights(folder, found["missing_keys"])
    network = Padded(module, device, dtype, padding=tokenizer.pad_token_id, edges=1)
    return _padded_model(module, network, encode, device, batcher)


def load_dnabert(
    folder: str,
    gpu: str,
    *,
    trust_remote_code: bool,
    tokens_per_batch: int | None,
    precision: str,
) -> Model:
    """Load a BERT for nucleotides; all tokens count in its means.

    Args:
        folder: Holds the model and its tokenizer.
        gpu: The worker's id.
        trust_remote_code: Whether Python code that comes with the model may be run.
        tokens_per_batch: The most tokens that go through it together; None: as many as suit.
        precision: A name of `PRECISIONS`; or `auto`: float32, as VirNucPro.

    Raises:
        ProcessorError: The model is incomplete, or PyTorch cannot use the GPU.
    """
    device = _device(gpu)
    options = {"trust_remote_code": trust_remote_code, "local_files_only": True}
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **options)
    module, found = transformers.AutoModel.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True, **options
    )
    _check_weights(folder, found["missing_keys"])
    _avoid_triton(module)

    def encode(sequences: Sequence[bytes]) -> Sequence[Tokens]:
        if not sequences:
            return []  # on which tokenizers fail
        texts = [sequence.decode("latin-1").upper() for sequence in sequences]
        tokens: list[Tokens] = tokenizer(texts, verbose=False)["input_ids"]
        return tokens

    dtype = PRECISIONS["fp32" if precision == "auto" else precision]
    module.eval()
    packed = pack_bert(module, encode(SAMPLES), device, dtype)
    network = packed or Padded(module, device, dtype, padding=tokenizer.pad_token_id or 0, edges=0)
    batcher = _batcher(tokens_per_batch, device, is_packed=packed is not None)
    return _padded_model(module, network, encode, device, batcher)


def not_finite(vectors: Any) -> list[int]:
    """The rows that hold a value which is NaN or infinite."""
    found: list[int] = (~torch.isfinite(vectors).all(dim=1)).nonzero().flatten().tolist()
    return found


def _padded_model(
    module: Any, network: Network, encode: Any, device: Any, batcher: Batcher
) -> Model:
    positions = getattr(getattr(module, "embeddings", None), "position_embeddings", None)
    longest: int | None = getattr(positions, "num_embeddings", None)
    width: int = module.config.hidden_size
    return Model(network, encode, device=device, batcher=batcher, width=width, longest=longest)


def _batcher(tokens: int | None, device: Any, *, is_packed: bool) -> Batcher:
    suitable = TOKENS_ON_CPU if device.type == "cpu" else TOKENS_ON_GPU
    return Batcher(tokens or suitable, is_packed=is_packed)


def _device(gpu: str) -> Any:
    """Where the model of a worker runs; a CPU slot is one thread unless the user sets more."""
    if gpu.startswith("cpu"):
        if "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(1)
            os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ProcessorError(f"PyTorch {torch.__version__} cannot use GPU {gpu}")
    return torch.device("cuda")  # the only one that is visible to this process


def _check_weights(folder: str, missing: Sequence[str]) -> None:
    """Refuse a model of which transformers has made up a part that is used."""
    needed = sorted(name for name in missing if not name.startswith(UNUSED))
    if needed:
        raise ProcessorError(f"the model in {folder!r} lacks weights, such as {needed[0]!r}")


def _letter_table(vocabulary: dict[str, int], unknown: int) -> bytes:
    """The token of every letter, in either case, for `bytes.translate`."""
    return bytes(vocabulary.get(chr(letter).upper(), unknown) for letter in range(256))


def _avoid_triton(model: Any) -> None:
    """Let a model that brings a kernel for an old Triton take its own path without it.

    DNABERT-S does: its kernel does not compile with the Triton that today's PyTorch brings.
    """
    code = sys.modules[type(model).__module__]
    if hasattr(code, "flash_attn_qkvpacked_func"):
        code.flash_attn_qkvpacked_func = None  # type: ignore[attr-defined]  # looked up above
