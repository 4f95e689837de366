"""Tiny models with random weights, saved as the real ones are, and what they should make."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers

ESM_LETTERS = "LAGVSERTIDPKQNFYMHWCXBUZO.-"
SPECIAL_TOKENS = {"pad_token": "[PAD]", "unk_token": "[UNK]"}
BERT_SHAPE = {
    "vocab_size": 9,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 600,
}

# A model's own code: it brings a kernel that must not be used, as DNABERT-S does.
CODE = """
from transformers import BertModel


def flash_attn_qkvpacked_func(*_):
    raise AssertionError("the kernel was used")


class OwnBert(BertModel):
    def forward(self, input_ids, attention_mask=None, **kwargs):
        if flash_attn_qkvpacked_func is not None:
            flash_attn_qkvpacked_func(input_ids)
        hidden = super().forward(input_ids, attention_mask=attention_mask)[0]
        return hidden + 1, None
"""

# The layers of DNABERT-S, by the names that its own code gives them; written for these tests.
ALIBI_CODE = """
import math

import torch
from torch import nn
from transformers import BertConfig, PreTrainedModel


def flash_attn_qkvpacked_func(*_):
    raise AssertionError("the kernel was used")


def slopes(heads):
    def series(number):
        start = 2 ** (-(2 ** -(math.log2(number) - 3)))
        return [start * start**i for i in range(number)]

    power = 2 ** math.floor(math.log2(heads))
    return series(power) + series(2 * power)[::2][: heads - power]


class Layer(nn.Module):
    def __init__(self, config):
        super().__init__()
        size, inner = config.hidden_size, config.intermediate_size
        self.heads = config.num_attention_heads
        self.attention = nn.ModuleDict(
            {
                "self": nn.ModuleDict({"Wqkv": nn.Linear(size, 3 * size)}),
                "output": nn.ModuleDict(
                    {"dense": nn.Linear(size, size), "LayerNorm": norm(config)}
                ),
            }
        )
        self.mlp = nn.ModuleDict(
            {
                "gated_layers": nn.Linear(size, 2 * inner, bias=False),
                "wo": nn.Linear(inner, size),
                "layernorm": norm(config),
            }
        )

    def forward(self, values, bias):
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.attention["self"]["Wqkv"](values).chunk(3, dim=-1)
        )
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1]) + bias
        attended = (scores.softmax(dim=-1) @ value).transpose(1, 2).flatten(2)
        output = self.attention["output"]
        values = output["LayerNorm"](output["dense"](attended) + values)
        gate, inner = self.mlp["gated_layers"](values).chunk(2, dim=-1)
        inner = nn.functional.gelu(gate) * inner
        return self.mlp["layernorm"](self.mlp["wo"](inner) + values)


def norm(config):
    return nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)


class BertModel(PreTrainedModel):
    config_class = BertConfig

    def __init__(self, config):
        super().__init__(config)
        self.embeddings = nn.ModuleDict(
            {
                "word_embeddings": nn.Embedding(config.vocab_size, config.hidden_size),
                "token_type_embeddings": nn.Embedding(2, config.hidden_size),
                "LayerNorm": norm(config),
            }
        )
        layers = [Layer(config) for _ in range(config.num_hidden_layers)]
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(layers)})
        self.slopes = slopes(config.num_attention_heads)
        self.post_init()

    def _init_weights(self, module):
        pass

    def forward(self, input_ids, attention_mask=None):
        if flash_attn_qkvpacked_func is not None:
            flash_attn_qkvpacked_func(input_ids)
        words = self.embeddings["word_embeddings"](input_ids)
        values = words + self.embeddings["token_type_embeddings"](torch.zeros_like(input_ids))
        values = self.embeddings["LayerNorm"](values)
        places = torch.arange(input_ids.shape[1])
        distance = (places[:, None] - places[None]).abs()
        bias = -torch.tensor(self.slopes)[:, None, None] * distance
        if attention_mask is not None:
            bias = bias + (1 - attention_mask[:, None, None, :]) * -10000.0
        for layer in self.encoder["layer"]:
            values = layer(values, bias)
        return values + SHIFT, None
"""


def save_esm2(folder: Path) -> Path:
    """An ESM-2 with the vocabulary of the real ones."""
    vocabulary = ["<cls>", "<pad>", "<eos>", "<unk>", *ESM_LETTERS, "<null_1>", "<mask>"]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    transformers.EsmTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    config = transformers.EsmConfig(
        vocab_size=33,
        mask_token_id=32,
        pad_token_id=1,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=1026,
        position_embedding_type="rotary",
        token_dropout=True,
    )
    torch.manual_seed(1)
    transformers.EsmModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


def save_bert(folder: Path) -> Path:
    """A BERT that takes a letter for a token."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "A", "C", "G", "T"]
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({token: i for i, token in enumerate(tokens)}, "[UNK]")
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    tokenizer.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **SPECIAL_TOKENS
    ).save_pretrained(folder)
    torch.manual_seed(2)
    transformers.BertModel(transformers.BertConfig(**BERT_SHAPE)).save_pretrained(folder)
    return folder


def save_bert_with_code(folder: Path) -> Path:
    """The same BERT with code of its own, which adds 1 to every value."""
    save_bert(folder)
    (folder / "own_bert.py").write_text(CODE)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "auto_map": {"AutoModel": "own_bert.OwnBert"}}))
    return folder


def save_alibi_bert(folder: Path, shift: float = 0.0, **shape: int) -> Path:
    """A BERT with the layers of DNABERT-S and code of its own, which adds a number to all values.

    Args:
        folder: Where it goes.
        shift: The number; 0 in DNABERT-S.
        shape: What differs from `BERT_SHAPE`; by default the heads, which are no power of two.
    """
    save_bert(folder)
    for path in folder.glob("*.safetensors"):
        path.unlink()
    (folder / "bert_layers.py").write_text(f"SHIFT = {shift}\n" + ALIBI_CODE)
    config = transformers.BertConfig(**{**BERT_SHAPE, "num_attention_heads": 6, **shape})
    config.auto_map = {"AutoModel": "bert_layers.BertModel"}
    config.save_pretrained(folder)
    torch.manual_seed(3)
    transformers.AutoModel.from_config(
        transformers.AutoConfig.from_pretrained(folder), trust_remote_code=True
    ).save_pretrained(folder)
    return folder


def esm2_means(folder: Path, sequences: list[str]) -> list[Any]:
    """The mean over the residues of each sequence, computed alone and the plain way."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.EsmModel.from_pretrained(folder, add_pooling_layer=False).eval()
    return [_hidden(model, tokenizer, text)[1:-1].mean(dim=0) for text in sequences]


def bert_means(folder: Path, sequences: list[str]) -> list[Any]:
    """The mean over the tokens of each sequence, computed alone and the plain way."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    if (folder / "bert_layers.py").exists():
        model = transformers.AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
        sys.modules[type(model).__module__].flash_attn_qkvpacked_func = None  # type: ignore[attr-defined]  # it is there
    else:
        model = transformers.BertModel.from_pretrained(folder).eval()
    return [_hidden(model, tokenizer, text).mean(dim=0) for text in sequences]


def _hidden(model: Any, tokenizer: Any, text: str) -> Any:
    with torch.no_grad():
        return model(tokenizer(text, return_tensors="pt")["input_ids"])[0][0]


def write_fasta(path: Path, sequences: dict[str, str]) -> Path:
    """A FASTA file of these sequences."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f">{name}\n{text}\n" for name, text in sequences.items()))
    return path
