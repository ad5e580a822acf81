"""GemVectorStore: what LlamaIndex expects of a vector store, and what its own store lacks."""

import asyncio

import numpy as np
import pytest
from llama_index.core import (
    Document,
    MockEmbedding,
    StorageContext,
    VectorStoreIndex,
    load_index_from_storage,
)
from llama_index.core.indices.query.embedding_utils import get_top_k_mmr_embeddings
from llama_index.core.schema import (
    ImageNode,
    IndexNode,
    NodeRelationship,
    RelatedNodeInfo,
    TextNode,
)
from llama_index.core.vector_stores import SimpleVectorStore
from llama_index.core.vector_stores.types import (
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
)

from gem_rag.errors import GemIndexError
from gem_rag.index import GemIndex
from gem_rag.index.filters import FilterError
from llama_index_gem_rag import GemEmbedding, GemVectorStore

OP = FilterOperator
VECTORS = {"kettle": [1.0, 0.0], "river": [0.6, 0.8], "letter": [0.0, 1.0], "bare": [-1.0, 0.1]}
METADATA = {
    "kettle": {"kind": "thing", "year": 1990, "tags": ["Hot", "red"], "code": "Kx-77a"},
    "river": {"kind": "place", "year": 2001.5, "tags": ["cold"], "code": "kX-80", "note": None},
    "letter": {"kind": "thing", "year": 2010, "tags": [], "code": "Lm-77b", "note": ""},
    "bare": {},
}


def node(name, **options):
    source = RelatedNodeInfo(node_id=f"doc-{name[0]}")
    return TextNode(
        id_=name,
        text=f"About the {name}.",
        embedding=VECTORS[name],
        metadata=METADATA[name],
        relationships={NodeRelationship.SOURCE: source},
        **options,
    )


@pytest.fixture
def store():
    store = GemVectorStore()
    assert store.add([node(name) for name in VECTORS]) == list(VECTORS)
    return store


def found(store, vector=(1.0, 0.0), k=10, **options):
    return store.query(VectorStoreQuery(list(vector), similarity_top_k=k, **options)).ids


def where(*filters, condition=FilterCondition.AND):
    parts = [
        f if isinstance(f, MetadataFilters) else MetadataFilter(key=f[0], operator=f[1], value=f[2])
        for f in filters
    ]
    return MetadataFilters(filters=parts, condition=condition)


# Searching


def test_the_nearest_come_first_with_cosines(store):
    result = store.query(VectorStoreQuery([2.0, 0.0], similarity_top_k=3))
    assert result.ids == ["kettle", "river", "letter"]
    assert result.similarities == pytest.approx([1.0, 0.6, 0.0], abs=1e-6)
    assert [n.node_id for n in result.nodes] == result.ids


def test_no_more_than_k_come(store):
    assert found(store, k=2) == ["kettle", "river"]
    assert VectorStoreQuery().similarity_top_k == 1
    assert found(store, k=1) == ["kettle"]


def test_filters_return_k_where_k_match(store):
    """Filtering happens in the search: the farthest match is found although others are nearer."""
    extra = [
        TextNode(id_=f"near-{i}", text="x", embedding=[1.0, i / 1000], metadata={"kind": "near"})
        for i in range(200)
    ]
    store.add(extra)
    assert found(store, k=2, filters=where(("kind", OP.EQ, "thing"))) == ["kettle", "letter"]


def test_an_empty_store_and_contradicting_or_unknown_filters_find_nothing(store):
    assert found(GemVectorStore()) == []
    assert found(store, filters=where(("year", OP.EQ, 1990), ("year", OP.EQ, 2010))) == []
    assert found(store, filters=where(("no such", OP.EQ, "thing"))) == []


def test_restriction_by_node_ids_and_doc_ids(store):
    assert found(store, node_ids=["letter", "river", "unknown"]) == ["river", "letter"]
    assert found(store, doc_ids=["doc-k", "doc-b"]) == ["kettle", "bare"]
    assert found(store, node_ids=["letter", "kettle"], doc_ids=["doc-l"]) == ["letter"]
    things = where(("kind", OP.EQ, "thing"))
    assert found(store, node_ids=["river", "letter"], filters=things) == ["letter"]
    assert found(store, doc_ids=[]) == []
    # VectorStoreIndex asks like this of a store that keeps the nodes itself.
    assert set(found(store, node_ids=[])) == EVERY


def test_other_modes_and_a_query_without_a_vector_are_refused(store):
    with pytest.raises(ValueError, match="'svm'; GemVectorStore has default, mmr, hybrid"):
        found(store, mode=VectorStoreQueryMode.SVM)
    with pytest.raises(ValueError, match="no query_str; mode 'hybrid' searches for its words"):
        found(store, mode=VectorStoreQueryMode.HYBRID)
    with pytest.raises(ValueError, match="no query_embedding"):
        store.query(VectorStoreQuery(query_str="kettle"))
    with pytest.raises(GemIndexError, match=r"dim|length|numbers"):
        found(store, vector=(1.0, 0.0, 0.0))


# Filters

EVERY = set(VECTORS)
CASES = [
    (("kind", OP.EQ, "thing"), {"kettle", "letter"}),
    (("year", OP.EQ, 1990.0), {"kettle"}),
    (("year", OP.EQ, "1990"), set()),
    (("kind", OP.NE, "thing"), {"river", "bare"}),
    (("year", OP.GT, 1990), {"river", "letter"}),
    (("year", OP.GTE, 1990), {"kettle", "river", "letter"}),
    (("year", OP.LT, 2001.5), {"kettle"}),
    (("year", OP.LTE, 2001.5), {"kettle", "river"}),
    (("kind", OP.GT, "place"), {"kettle", "letter"}),
    (("kind", OP.IN, ["place", "no"]), {"river"}),
    (("year", OP.IN, [1990, 2010]), {"kettle", "letter"}),
    (("kind", OP.IN, []), set()),
    (("kind", OP.NIN, ["thing"]), {"river", "bare"}),
    (("kind", OP.NIN, []), EVERY),
    (("tags", OP.CONTAINS, "red"), {"kettle"}),
    (("tags", OP.CONTAINS, "re"), set()),
    (("code", OP.CONTAINS, "-77"), {"kettle", "letter"}),
    (("tags", OP.ANY, ["red", "cold", "no"]), {"kettle", "river"}),
    (("tags", OP.ANY, []), set()),
    (("tags", OP.ALL, ["red", "Hot"]), {"kettle"}),
    (("tags", OP.ALL, ["red", "cold"]), set()),
    (("tags", OP.ALL, []), {"kettle", "river", "letter"}),
    (("code", OP.TEXT_MATCH, "77"), {"kettle", "letter"}),
    (("code", OP.TEXT_MATCH, "kx"), set()),
    (("tags", OP.TEXT_MATCH, "red"), set()),
    (("year", OP.TEXT_MATCH, "1990"), set()),
    (("code", OP.TEXT_MATCH_INSENSITIVE, "KX"), {"kettle", "river"}),
    (("tags", OP.TEXT_MATCH_INSENSITIVE, "hot"), set()),
    (("tags", OP.IS_EMPTY, None), {"letter", "bare"}),
    (("note", OP.IS_EMPTY, None), EVERY),
    (("no such", OP.IS_EMPTY, None), EVERY),
    (("kind", OP.IS_EMPTY, None), {"bare"}),
    (("no such", OP.NE, "x"), EVERY),
    (("no such", OP.NIN, ["x"]), EVERY),
    (("note", OP.NE, "x"), EVERY),
]


@pytest.mark.parametrize(("filter_", "expected"), CASES, ids=lambda c: str(c)[:48])
def test_each_filter_operator_matches_exactly_its_nodes(store, filter_, expected):
    assert set(found(store, filters=where(filter_))) == expected


def test_every_operator_of_llama_index_is_among_these_cases():
    assert {case[0][1] for case in CASES} == set(FilterOperator)


@pytest.mark.parametrize(("filter_", "expected"), CASES, ids=lambda c: str(c)[:48])
def test_operators_agree_with_llama_indexs_own_store(filter_, expected):
    """Where its store answers at all; it fails on comparisons that mix types."""
    simple = SimpleVectorStore()
    simple.add([node(name) for name in VECTORS])
    try:
        theirs = set(found(simple, filters=where(filter_)))
    except TypeError:
        return
    assert theirs == expected


def test_conditions(store):
    thing, old = ("kind", OP.EQ, "thing"), ("year", OP.LT, 2005)
    assert set(found(store, filters=where(thing, old))) == {"kettle"}
    assert set(found(store, filters=where(thing, old, condition=None))) == {"kettle"}
    either = where(thing, old, condition=FilterCondition.OR)
    assert set(found(store, filters=either)) == {"kettle", "letter", "river"}
    neither = where(thing, old, condition=FilterCondition.NOT)
    assert set(found(store, filters=neither)) == {"bare"}
    assert set(found(store, filters=where(thing, condition=FilterCondition.NOT))) == {
        "river",
        "bare",
    }


@pytest.mark.parametrize("condition", [*FilterCondition, None])
def test_no_filters_restrict_nothing(store, condition):
    assert set(found(store, filters=where(condition=condition))) == EVERY


def test_conditions_nest(store):
    not_red = where(("tags", OP.CONTAINS, "red"), condition=FilterCondition.NOT)
    thing_not_red = where(("kind", OP.EQ, "thing"), not_red)
    assert found(store, filters=thing_not_red) == ["letter"]
    place = ("kind", OP.EQ, "place")
    either = where(thing_not_red, place, condition=FilterCondition.OR)
    assert set(found(store, filters=either)) == {"letter", "river"}
    assert set(found(store, filters=where(either, condition=FilterCondition.NOT))) == {
        "kettle",
        "bare",
    }


def test_nested_metadata_is_kept_and_reached_by_a_dotted_name():
    store = GemVectorStore()
    nested = {"source": {"page": 3, "parts": [{"a": [1, None]}]}, "flag": True}
    store.add([TextNode(id_="n", text="x", embedding=[1.0], metadata=nested)])
    (same,) = store.get_nodes(["n"])
    assert same.metadata == nested
    assert found(store, vector=[1.0], filters=where(("source.page", OP.EQ, 3))) == ["n"]
    assert found(store, vector=[1.0], filters=where(("source.page", OP.EQ, 4))) == []


@pytest.mark.parametrize(
    "filter_",
    [
        ("tags", OP.ANY, "red"),
        ("tags", OP.ALL, "red"),
        ("code", OP.TEXT_MATCH, 77),
        ("code", OP.TEXT_MATCH_INSENSITIVE, ["Kx"]),
        ("kind", OP.IN, "thing"),
        ("year", OP.GT, None),
        ("$or", OP.EQ, 1),
    ],
    ids=str,
)
def test_an_operator_with_a_value_it_has_no_use_for_is_refused(store, filter_):
    with pytest.raises(FilterError):
        found(store, filters=where(filter_))


# Diversity


def cloud(count=40, dim=8, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(count, dim))
    return [TextNode(id_=f"{i}", text=f"{i}", embedding=v.tolist()) for i, v in enumerate(vectors)]


def test_mmr_prefers_what_is_new():
    store = GemVectorStore()
    same = {"a": [1.0, 0.0], "twin": [0.999, 0.01], "other": [0.8, -0.6]}
    store.add([TextNode(id_=n, text=n, embedding=v) for n, v in same.items()])
    mmr = {"mode": VectorStoreQueryMode.MMR, "k": 2}
    assert found(store, k=2) == ["a", "twin"]
    assert found(store, **mmr, mmr_threshold=0.3) == ["a", "other"]
    assert found(store, **mmr, mmr_threshold=1.0) == ["a", "twin"]
    result = store.query(
        VectorStoreQuery([1.0, 0.0], 2, mode=VectorStoreQueryMode.MMR, mmr_threshold=0.3)
    )
    assert result.similarities == pytest.approx([1.0, 0.8])
    assert found(store, **mmr, filters=None, node_ids=["twin", "other"])[0] == "twin"


def test_mmr_with_threshold_1_is_plain_search_and_0_forgets_the_query():
    store = GemVectorStore()
    store.add(cloud())
    query = np.random.default_rng(1).normal(size=8)
    mmr = {"vector": query, "mode": VectorStoreQueryMode.MMR, "k": 5}
    assert found(store, **mmr, mmr_threshold=1.0) == found(store, vector=query, k=5)
    assert found(store, **mmr, mmr_threshold=0.0) != found(store, vector=query, k=5)


def test_mmr_picks_the_pair_llama_indexs_own_function_picks():
    """Of two, both compare the second with the first; later ones we compare with all taken."""
    store, nodes = GemVectorStore(), cloud()
    store.add(nodes)
    query = np.random.default_rng(2).normal(size=8).tolist()
    for threshold in (0.1, 0.2, 0.5, 0.8, 1.0):
        _, theirs = get_top_k_mmr_embeddings(
            query,
            [n.embedding for n in nodes],
            similarity_top_k=2,
            embedding_ids=[n.node_id for n in nodes],
            mmr_threshold=threshold,
        )
        asked = VectorStoreQuery(query, 2, mode=VectorStoreQueryMode.MMR)
        ours = store.query(asked, mmr_threshold=threshold, mmr_prefetch_k=len(nodes)).ids
        assert ours == theirs


def test_mmr_chooses_from_as_many_as_it_is_told():
    store = GemVectorStore()
    store.add(cloud())
    asked = VectorStoreQuery([1.0] * 8, 3, mode=VectorStoreQueryMode.MMR, mmr_threshold=0.0)
    nearest = set(found(store, vector=[1.0] * 8, k=3))
    assert set(store.query(asked, mmr_prefetch_factor=1).ids) == nearest
    assert set(store.query(asked, mmr_prefetch_k=3).ids) == nearest
    assert set(store.query(asked).ids) <= set(found(store, vector=[1.0] * 8, k=12))


# Nodes


def test_nodes_come_back_whole(store):
    full = TextNode(
        id_="full",
        text="Line one.\nÜmläut 🙂",
        embedding=[0.5, 0.5],
        metadata={"a": 1, "doc_id": "mine"},
        relationships={
            NodeRelationship.SOURCE: RelatedNodeInfo(node_id="doc", metadata={"x": 1}),
            NodeRelationship.NEXT: RelatedNodeInfo(node_id="later"),
        },
        start_char_idx=7,
        end_char_idx=30,
        excluded_embed_metadata_keys=["a"],
        excluded_llm_metadata_keys=["doc_id"],
    )
    store.add([full])
    (same,) = store.get_nodes(["full"])
    full.embedding = None
    assert same == full
    (hit,) = store.query(VectorStoreQuery([0.5, 0.5])).nodes
    assert hit == full
    assert hit.ref_doc_id == "doc"


def test_index_and_image_nodes_keep_their_kind(store):
    store.add(
        [
            IndexNode(id_="i", index_id="other index", text="x", embedding=[1.0, 1.0]),
            ImageNode(id_="p", image_url="http://x/y.png", text="a horse", embedding=[1.0, 1.0]),
        ]
    )
    index_node, image = store.get_nodes(["i", "p"])
    assert isinstance(index_node, IndexNode)
    assert index_node.index_id == "other index"
    assert isinstance(image, ImageNode)
    assert image.image_url == "http://x/y.png"


def test_get_nodes(store):
    assert [n.node_id for n in store.get_nodes()] == list(VECTORS)
    assert [n.node_id for n in store.get_nodes(["letter", "no", "kettle"])] == ["letter", "kettle"]
    things = where(("kind", OP.EQ, "thing"))
    assert [n.node_id for n in store.get_nodes(filters=things)] == ["kettle", "letter"]
    assert [n.node_id for n in store.get_nodes(["river", "letter"], things)] == ["letter"]
    assert store.get_nodes([]) == []


def test_adding_a_known_id_replaces_the_node(store):
    store.add([TextNode(id_="kettle", text="New words.", embedding=[0.0, 1.0])])
    assert len(store.client) == len(VECTORS)
    (same,) = store.get_nodes(["kettle"])
    assert same.text == "New words."
    assert same.metadata == {}
    assert found(store, k=1) == ["river"]


def test_of_nodes_with_one_id_in_one_call_the_last_counts():
    store = GemVectorStore()
    twice = [TextNode(id_="a", text=text, embedding=[1.0]) for text in ("first", "second")]
    assert store.add(twice) == ["a", "a"]
    assert [n.text for n in store.get_nodes()] == ["second"]
    assert store.add([]) == []


def test_a_node_without_an_embedding_is_refused_and_nothing_added():
    store = GemVectorStore()
    with pytest.raises(ValueError, match="embedding not set"):
        store.add([TextNode(id_="a", text="a", embedding=[1.0]), TextNode(id_="b", text="b")])
    assert store.get_nodes() == []


def test_delete_by_source_document(store):
    store.add(
        [
            TextNode(
                id_="second",
                text="x",
                embedding=[1.0, 0.0],
                relationships=node("kettle").relationships,
            )
        ]
    )
    store.delete("doc-k")
    assert set(found(store)) == {"river", "letter", "bare"}
    store.delete("no such document")
    assert len(store.client) == 3


def test_delete_nodes(store):
    store.delete_nodes(["kettle", "unknown"])
    assert set(found(store)) == {"river", "letter", "bare"}
    store.delete_nodes(["river", "letter"], where(("kind", OP.EQ, "thing")))
    assert set(found(store)) == {"river", "bare"}
    store.delete_nodes(filters=where(("kind", OP.IS_EMPTY, None)))
    assert found(store) == ["river"]
    with pytest.raises(ValueError, match="clear"):
        store.delete_nodes()
    assert found(store) == ["river"]


def test_deleting_no_ids_deletes_nothing(store):
    store.delete_nodes([])
    assert set(found(store)) == EVERY


def test_clear(store):
    store.clear()
    assert found(store) == []
    assert store.get_nodes() == []
    store.add([node("river")])
    assert found(store) == ["river"]


async def test_async_twins_do_the_same_without_blocking(store):
    other = GemVectorStore()
    assert await other.async_add([node(name) for name in VECTORS]) == list(VECTORS)
    query = VectorStoreQuery([0.3, 0.7], similarity_top_k=3)
    ours, theirs = await other.aquery(query), store.query(query)
    assert ours == theirs
    assert await other.aget_nodes(["river"]) == store.get_nodes(["river"])
    await other.adelete("doc-k")
    await other.adelete_nodes(["river"])
    assert {n.node_id for n in await other.aget_nodes()} == {"letter", "bare"}
    await other.aclear()
    assert await other.aget_nodes() == []


async def test_a_slow_write_does_not_block_the_loop(store):
    release = asyncio.Event()
    loop = asyncio.get_running_loop()

    def hold():
        with store.client.transaction():
            asyncio.run_coroutine_threadsafe(release.wait(), loop).result(30)

    holding = asyncio.create_task(asyncio.to_thread(hold))
    await asyncio.sleep(0.05)
    asking = asyncio.create_task(store.aquery(VectorStoreQuery([1.0, 0.0])))
    await asyncio.sleep(0.05)  # the loop runs on while the query waits for the writer
    assert not asking.done()
    release.set()
    await holding
    assert (await asking).ids == ["kettle"]


# Keeping


def test_a_path_is_kept_at_once_and_no_pickle_is_written(tmp_path, store):
    kept = GemVectorStore(tmp_path / "nodes")
    kept.add([node(name) for name in VECTORS])
    again = GemVectorStore(tmp_path / "nodes", create=False)  # while the other is still open
    assert again.get_nodes() == store.get_nodes()
    kept.delete_nodes(["river"])
    assert found(again, k=2) == ["kettle", "letter"]
    again.close()
    kept.close()
    files = list((tmp_path / "nodes").iterdir())
    assert {f.suffix for f in files} <= {".sqlite", ".faiss", ".sqlite-wal", ".sqlite-shm"}
    assert not any(f.read_bytes().startswith(b"\x80\x04") for f in files)


def test_persist_and_from_persist_path(tmp_path, store):
    target = str(tmp_path / "deep" / "copy")
    store.persist(target)
    again = GemVectorStore.from_persist_path(target)
    assert again.get_nodes() == store.get_nodes()
    query = VectorStoreQuery([0.3, 0.7], similarity_top_k=4)
    assert again.query(query).ids == store.query(query).ids
    assert again.query(query).similarities == pytest.approx(store.query(query).similarities)
    again.close()
    store.delete_nodes(["kettle"])
    store.persist(target)
    with_less = GemVectorStore.from_persist_path(target)
    assert [n.node_id for n in with_less.get_nodes()] == ["river", "letter", "bare"]
    with_less.persist(target)
    assert len(with_less.get_nodes()) == 3


def test_what_is_not_there_is_an_error(tmp_path):
    with pytest.raises(GemIndexError, match="no index"):
        GemVectorStore.from_persist_dir(str(tmp_path))


def test_only_this_machines_file_system(tmp_path, store):
    import fsspec

    store.persist(str(tmp_path / "a"), fs=fsspec.filesystem("file"))
    with pytest.raises(ValueError, match="MemoryFileSystem"):
        store.persist("/a", fs=fsspec.filesystem("memory"))


def test_storage_context_persists_and_loads_the_index(tmp_path):
    embed = MockEmbedding(embed_dim=3)
    context = StorageContext.from_defaults(vector_store=GemVectorStore())
    documents = [Document(id_="1", text="one"), Document(id_="2", text="two")]
    index = VectorStoreIndex.from_documents(documents, storage_context=context, embed_model=embed)
    index.storage_context.persist(str(tmp_path))
    store = GemVectorStore.from_persist_dir(str(tmp_path))
    context = StorageContext.from_defaults(vector_store=store, persist_dir=str(tmp_path))
    again = load_index_from_storage(context, embed_model=embed)
    assert {n.text for n in again.as_retriever(similarity_top_k=5).retrieve("x")} == {"one", "two"}


def test_another_models_vectors_are_an_error(tmp_path, gem):
    embed = GemEmbedding(gem)
    store = GemVectorStore(tmp_path / "nodes", embed)
    assert store.client.info().fingerprint == gem.fingerprint
    store.persist(str(tmp_path / "copy"))
    store.close()
    GemVectorStore(tmp_path / "nodes", embed).close()
    GemVectorStore(tmp_path / "nodes").close()  # not checked where nothing is given
    other = GemEmbedding(gem)
    other.fingerprint = "another"
    for path in ("nodes", "copy"):
        with pytest.raises(GemIndexError, match=r"model|fingerprint"):
            GemVectorStore(tmp_path / path, other)
    with pytest.raises(GemIndexError, match=r"model|fingerprint"):
        GemVectorStore.from_persist_path(str(tmp_path / "copy"), embed_model=other)
    with (
        GemIndex(tmp_path / "nodes") as index,
        pytest.raises(GemIndexError, match=r"model|fingerprint"),
    ):
        GemVectorStore(embed_model=other, index=index)
    with pytest.raises(ValueError, match="give either"):
        GemVectorStore(tmp_path / "copy", index=GemIndex())


def test_a_query_of_another_model_is_an_error(gem):
    store = GemVectorStore(embed_model=GemEmbedding(gem))
    store.add([TextNode(id_="a", text="a", embedding=[1.0] * gem.dim)])
    query = VectorStoreQuery([1.0] * gem.dim)
    assert store.query(query, fingerprint=gem.fingerprint).ids == ["a"]
    with pytest.raises(GemIndexError, match=r"model|fingerprint"):
        store.query(query, fingerprint="another")


def test_an_index_filled_by_something_else_says_so():
    index = GemIndex()
    index.add(["plain"], [[1.0]], ids=["p"])
    with pytest.raises(GemIndexError, match="no LlamaIndex node"):
        GemVectorStore(index=index).query(VectorStoreQuery([1.0]))


def test_serialised_and_restored(tmp_path):
    store = GemVectorStore(tmp_path / "nodes")
    store.add([node("river")])
    again = GemVectorStore.from_dict(store.to_dict())
    assert again.path == str(tmp_path / "nodes")
    assert found(again) == ["river"]
    assert again.stores_text
    assert again.is_embedding_query
