"""The one module that imports PyTorch and transformers: a loaded model on the worker's device."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from virnucpro_exporter.errors import ProcessorError
from virnucpro_exporter.processors.batching import Tokens

AMPERE = (8, 0)  # the first GPUs that compute in bfloat16
UNUSED = ("pooler.", "contact_head.")


class Model:
    """A transformer that makes one vector of each sequence.

    Args:
        model: A module of transformers, with its weights in float32.
        encode: Makes tokens of sequences, special ones included.
        padding: The token that fills up the shorter sequences of a batch.
        edges: How many tokens at each end the mean leaves out.
        device: Where the model runs.
        bfloat16: Whether linear layers compute in bfloat16.

    Attributes:
        encode: As above.
        longest: The most tokens that the model takes, or None where it knows no limit.
    """

    def __init__(
        self,
        model: Any,
        encode: Callable[[Sequence[bytes]], list[Tokens]],
        *,
        padding: int,
        edges: int,
        device: Any,
        bfloat16: bool,
    ) -> None:
        self.encode = encode
        self._padding = padding
        self._edges = edges
        self._device = device
        self._bfloat16 = bfloat16
        if bfloat16:
            _round_weights(model)
        self._model = model.eval().to(device)
        positions = getattr(getattr(model, "embeddings", None), "position_embeddings", None)
        self.longest: int | None = getattr(positions, "num_embeddings", None)

    def embed(self, batch: Sequence[Tokens]) -> list[Any]:
        """Make the mean of the last hidden layer over each sequence.

        Args:
            batch: The tokens of each sequence.

        Returns:
            One float32 tensor for each sequence, on the CPU, that shares its memory with no other.

        Raises:
            MemoryError: The batch does not fit into the memory of the GPU.
        """
        try:
            vectors = self._means(batch)
        except torch.cuda.OutOfMemoryError as error:
            reason = str(error)
        else:
            return [vector.clone() for vector in vectors.cpu()]
        # Here the traceback is gone, and with it all that still held memory of the batch.
        torch.cuda.empty_cache()
        raise MemoryError(reason)

    def _means(self, batch: Sequence[Tokens]) -> Any:
        rows = [torch.tensor(tokens) for tokens in batch]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self._padding)
        lengths = torch.tensor([[len(tokens)] for tokens in batch])
        positions = torch.arange(ids.shape[1])
        mask = (positions < lengths).long()
        counted = (positions >= self._edges) & (positions < lengths - self._edges)
        with torch.inference_mode():
            with torch.autocast(self._device.type, torch.bfloat16, enabled=self._bfloat16):
                hidden = self._model(
                    input_ids=ids.to(self._device), attention_mask=mask.to(self._device)
                )[0]
            ignored = ~counted.unsqueeze(-1).to(self._device)
            sums = hidden.float().masked_fill(ignored, 0.0).sum(dim=1)
            return sums / (lengths - 2 * self._edges).to(self._device)


def load_esm2(folder: str, gpu: str) -> Model:
    """Load an ESM-2, to embed proteins without their special tokens.

    Args:
        folder: Holds the model and its tokenizer.
        gpu: The worker's id.

    Raises:
        ProcessorError: The model is incomplete, or PyTorch cannot use the GPU.
    """
    device = _device(gpu)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model, found = transformers.EsmModel.from_pretrained(
        folder,
        add_pooling_layer=False,
        dtype=torch.float32,
        local_files_only=True,
        output_loading_info=True,
    )
    _check_weights(folder, found["missing_keys"])
    letters = _letter_table(tokenizer.get_vocab(), tokenizer.unk_token_id)
    first, last = tokenizer.cls_token_id, tokenizer.eos_token_id

    def encode(sequences: Sequence[bytes]) -> list[Tokens]:
        return [[first, *sequence.translate(letters), last] for sequence in sequences]

    return Model(
        model,
        encode,
        padding=tokenizer.pad_token_id,
        edges=1,
        device=device,
        bfloat16=device.type == "cuda" and torch.cuda.get_device_capability() >= AMPERE,
    )


def load_dnabert(folder: str, gpu: str, *, trust_remote_code: bool) -> Model:
    """Load a BERT for nucleotides, in float32; all tokens count in its means.

    Args:
        folder: Holds the model and its tokenizer.
        gpu: The worker's id.
        trust_remote_code: Whether Python code that comes with the model may be run.

    Raises:
        ProcessorError: The model is incomplete, or PyTorch cannot use the GPU.
    """
    device = _device(gpu)
    options = {"trust_remote_code": trust_remote_code, "local_files_only": True}
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **options)
    model, found = transformers.AutoModel.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True, **options
    )
    _check_weights(folder, found["missing_keys"])
    _avoid_triton(model)

    def encode(sequences: Sequence[bytes]) -> list[Tokens]:
        texts = [sequence.decode("latin-1").upper() for sequence in sequences]
        tokens: list[Tokens] = tokenizer(texts, verbose=False)["input_ids"]
        return tokens

    return Model(
        model, encode, padding=tokenizer.pad_token_id or 0, edges=0, device=device, bfloat16=False
    )


def is_finite(vector: Any) -> bool:
    """Whether no value of a vector on the CPU is NaN or infinite."""
    return bool(torch.isfinite(vector).all())


def save(result: object, output: Path) -> None:
    """Write what `torch.load` reads; the same result gives the same bytes."""
    # Given a path, torch.save would put the name of the file into it.
    with output.open("wb") as file:
        torch.save(result, file)


def _device(gpu: str) -> Any:
    """Where the model of a worker runs; a CPU slot is one thread unless the user says otherwise."""
    if gpu.startswith("cpu"):
        if "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(1)
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ProcessorError(f"PyTorch {torch.__version__} cannot use GPU {gpu}")
    return torch.device("cuda")  # the only one that this process sees


def _round_weights(model: Any) -> None:
    """Round the weights of linear layers once; autocast would do the same for every batch."""
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            module.to(torch.bfloat16)


def _check_weights(folder: str, missing: Sequence[str]) -> None:
    """Refuse a model of which transformers has made up a part that is used."""
    needed = sorted(name for name in missing if not name.startswith(UNUSED))
    if needed:
        raise ProcessorError(f"the model in {folder!r} lacks weights, {needed[0]!r} for one")


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
