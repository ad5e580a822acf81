"""GemEmbeddings under LangChain's own conformance suites, and what they do not check."""

import numpy as np
import pytest
from langchain_tests.integration_tests import EmbeddingsIntegrationTests
from langchain_tests.unit_tests import EmbeddingsUnitTests

from gem_rag import GemEmbeddings
from langchain_gem_rag import GemEmbeddings as Direct


@pytest.fixture(autouse=True, scope="module")
def _checkpoint(gem):
    TestUnit.loaded = TestIntegration.loaded = gem


class TestUnit(EmbeddingsUnitTests):
    loaded = None

    @property
    def embeddings_class(self):
        return GemEmbeddings

    @property
    def embedding_model_params(self):
        return {"model": self.loaded}


class TestIntegration(EmbeddingsIntegrationTests):
    loaded = None

    @property
    def embeddings_class(self):
        return GemEmbeddings

    @property
    def embedding_model_params(self):
        return {"model": self.loaded}


def test_it_is_one_class_under_two_names():
    assert Direct is GemEmbeddings


def test_queries_are_not_documents_and_texts_are_unchanged(gem):
    embeddings = GemEmbeddings(gem)
    text = "Who wrote\nthe letter?"
    np.testing.assert_allclose(embeddings.embed_query(text), gem.embed_query(text), atol=1e-6)
    assert not np.allclose(embeddings.embed_query(text), embeddings.embed_documents([text])[0])
    flat = embeddings.embed_documents([text.replace("\n", " ")])
    assert not np.allclose(flat, embeddings.embed_documents([text]))


async def test_async_gives_the_same(gem):
    embeddings = GemEmbeddings(gem)
    assert await embeddings.aembed_query("a") == pytest.approx(embeddings.embed_query("a"))
    (found,) = await embeddings.aembed_documents(["a"])
    assert found == pytest.approx(embeddings.embed_documents(["a"])[0])
