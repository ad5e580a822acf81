"""LangChain's own suites on the default model, as they are."""

from __future__ import annotations

import pytest
from langchain_tests.integration_tests import (
    ChatModelIntegrationTests,
    EmbeddingsIntegrationTests,
    VectorStoreIntegrationTests,
)
from langchain_tests.unit_tests import ChatModelUnitTests, EmbeddingsUnitTests

from gem_rag import ChatGem, GemEmbeddings, GemVectorStore

pytestmark = pytest.mark.model
NO_SENSE = "asserts an argument's value that a model of 135 million parameters has no sense for"


class TestChatUnit(ChatModelUnitTests):
    @property
    def chat_model_class(self):
        return ChatGem

    @property
    def chat_model_params(self):
        return {}


class TestChat(ChatModelIntegrationTests):
    @property
    def chat_model_class(self):
        return ChatGem

    @property
    def chat_model_params(self):
        return {}

    @property
    def supports_json_mode(self):
        return True


class TestEmbeddingsUnit(EmbeddingsUnitTests):
    @property
    def embeddings_class(self):
        return GemEmbeddings

    @property
    def embedding_model_params(self):
        return {}


class TestEmbeddings(EmbeddingsIntegrationTests):
    @property
    def embeddings_class(self):
        return GemEmbeddings

    @property
    def embedding_model_params(self):
        return {}


class TestVectorStore(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self):
        return GemVectorStore(GemEmbeddings())
