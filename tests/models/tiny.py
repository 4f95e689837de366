"""Tiny models with random weights, saved as the real ones are, and what they should make."""

from __future__ import annotations

import json
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


def esm2_means(folder: Path, sequences: list[str]) -> list[Any]:
    """The mean over the residues of each sequence, computed alone and the plain way."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.EsmModel.from_pretrained(folder, add_pooling_layer=False).eval()
    return [_hidden(model, tokenizer, text)[1:-1].mean(dim=0) for text in sequences]


def bert_means(folder: Path, sequences: list[str]) -> list[Any]:
    """The mean over the tokens of each sequence, computed alone and the plain way."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.BertModel.from_pretrained(folder).eval()
    return [_hidden(model, tokenizer, text).mean(dim=0) for text in sequences]


def _hidden(model: Any, tokenizer: Any, text: str) -> Any:
    with torch.no_grad():
        return model(**tokenizer(text, return_tensors="pt"))[0][0]


def write_fasta(path: Path, sequences: dict[str, str]) -> Path:
    """A FASTA file of these sequences."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f">{name}\n{text}\n" for name, text in sequences.items()))
    return path
