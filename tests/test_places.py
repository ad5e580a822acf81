"""Distributions under the names their users look for: what they own, need and give."""

from importlib.metadata import distributions, version

import places
import pytest
from packaging.requirements import Requirement

OWNED = {
    "langchain-gem-rag": [],
    "llama-index-embeddings-gem-rag": ["llama_index/embeddings/gem_rag/"],
    "llama-index-llms-gem-rag": ["llama_index/llms/gem_rag/"],
    "llama-index-postprocessor-gem-rag": ["llama_index/postprocessor/gem_rag/"],
    "gem-rag-haystack": [
        "haystack_integrations/common/gem_rag/",
        "haystack_integrations/components/embedders/gem_rag/",
        "haystack_integrations/components/generators/gem_rag/",
        "haystack_integrations/components/rankers/gem_rag/",
    ],
    "llm-gem-rag": ["llm_gem_rag/"],
}


def test_every_distribution_is_built(wheels):
    assert wheels.keys() == set(places.NAMES) == OWNED.keys()


@pytest.mark.parametrize("name", OWNED)
def test_a_distribution_owns_its_own_namespace_and_nothing_else(wheels, name):
    files = wheels[name].files
    assert all(any(file.startswith(own) for own in OWNED[name]) for file in files)
    for own in OWNED[name]:
        assert {f"{own}__init__.py", f"{own}py.typed"} <= files


def test_no_file_belongs_to_two_distributions(wheels):
    ours = {file for wheel in wheels.values() for file in wheel.files}
    others = {
        str(file)
        for other in distributions()
        if other.name not in OWNED
        for file in other.files or []
    }
    assert len(ours) == sum(len(wheel.files) for wheel in wheels.values())
    assert not ours & others


@pytest.mark.parametrize("name", OWNED)
def test_a_distribution_brings_gem_rag_and_fits_the_frameworks_that_are_here(wheels, name):
    needed = [Requirement(line) for line in wheels[name].requirements]
    assert "gem-rag" in {one.name for one in needed}
    for one in needed:
        assert one.specifier.contains(version(one.name), prereleases=True)


def test_langchains_users_get_the_module_that_gem_rag_ships(wheels, placed, tiny_checkpoint):
    from langchain_gem_rag import ChatGem

    assert not wheels["langchain-gem-rag"].files
    llm = ChatGem(model=tiny_checkpoint, temperature=0, max_tokens=4, timeout=60, stop=["\n\n"])
    assert llm.invoke("Who wrote it?").usage_metadata["output_tokens"] <= 4


def test_llama_indexs_users_find_the_classes_where_they_look(placed, tiny_checkpoint):
    from llama_index.core.schema import NodeWithScore, TextNode
    from llama_index.embeddings.gem_rag import GemEmbedding
    from llama_index.llms.gem_rag import GemLLM
    from llama_index.postprocessor.gem_rag import GemReranker

    llm = GemLLM(model=tiny_checkpoint, temperature=0, max_tokens=4, timeout=60, stop=["\n\n"])
    assert llm.complete("Who wrote it?").raw["usage"]["completion_tokens"] <= 4
    vector = GemEmbedding(model=tiny_checkpoint).get_text_embedding("Rivers run to the sea.")
    assert len(vector) == 32
    nodes = [NodeWithScore(node=TextNode(text=text)) for text in ("A horse.", "Rivers run.")]
    best = GemReranker(model=tiny_checkpoint, top_n=1).postprocess_nodes(nodes, query_str="Sea?")
    assert len(best) == 1


def test_old_and_new_imports_are_the_same_classes(placed):
    import llama_index.llms.gem_rag as new

    import llama_index_gem_rag as old

    assert new.GemLLM is old.GemLLM
