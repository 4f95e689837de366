"""These tests need PyTorch: `make test-models` runs them in an environment of their own."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

collect_ignore_glob = [] if find_spec("torch") else ["test_*.py"]


@pytest.fixture(scope="session")
def esm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny ESM-2 with random weights."""
    from tests.models.tiny import save_esm2  # noqa: PLC0415 - loads PyTorch

    return save_esm2(tmp_path_factory.mktemp("esm2"))


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny BERT for nucleotides with random weights."""
    from tests.models.tiny import save_bert  # noqa: PLC0415 - loads PyTorch

    return save_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="session")
def bert_with_code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny BERT that, like DNABERT-S, contains its own Python code."""
    from tests.models.tiny import save_bert_with_code  # noqa: PLC0415 - loads PyTorch

    return save_bert_with_code(tmp_path_factory.mktemp("bert_with_code"))


@pytest.fixture(scope="session")
def alibi_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny BERT with the layers of DNABERT-S, in code of its own."""
    from tests.models.tiny import save_alibi_bert  # noqa: PLC0415 - loads PyTorch

    return save_alibi_bert(tmp_path_factory.mktemp("alibi_bert"))
