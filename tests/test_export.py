"""Exports, each loaded by the runtime that it is for."""

import json
import re

import pytest
import torch
from peers import cosines, llama_chat, llama_server, llama_vectors
from tiny import TEXTS, disturb, make_base
from typer.testing import CliRunner

from gem_rag.checkpoints.export.gguf import export_gguf
from gem_rag.checkpoints.export.sentence_transformers import export_sentence_transformers
from gem_rag.cli import app
from gem_rag.config import AdapterConfig
from gem_rag.errors import CheckpointError, UnsupportedModelError
from gem_rag.model import GemModel, create

MLP = ("gate_proj", "up_proj", "down_proj")
GRADES = {"tokens": (1, 0), "adapter": (2, 4)}  # special tokens, rank
QUERIES = ["Who wrote the letter?", "steam engines", "naïve café"]


def checkpoint(base_folder, folder, tokens=2, rank=4, targets=MLP, **settings):
    form = {"pooling": "last", "query_prefix": "Who wrote this?\n"} | settings
    adapter = AdapterConfig(rank=rank, alpha=8, targets=targets)
    model = create(base_folder, num_special_tokens=tokens, adapter=adapter, **form)
    disturb(model, 0.3).save_pretrained(folder)
    return GemModel.from_pretrained(folder)


@pytest.fixture(scope="module", params=GRADES)
def exported(request, base_folder, tmp_path_factory):
    """A checkpoint in export form, of one grade, and where exports of it go."""
    folder = tmp_path_factory.mktemp(request.param)
    model = checkpoint(base_folder, folder / "checkpoint", *GRADES[request.param])
    return model, folder


@pytest.fixture(scope="module")
def transformer(exported):
    from sentence_transformers import SentenceTransformer

    model, folder = exported
    return SentenceTransformer(str(export_sentence_transformers(folder / "st", model.path)))


@pytest.fixture(scope="module")
def server(exported):
    model, folder = exported
    return llama_server(export_gguf(folder / "gguf", model.path, "f32"))


def test_sentence_transformers_gives_the_checkpoints_vectors(exported, transformer):
    model, _ = exported
    documents = model.embed_documents(TEXTS)
    assert cosines(transformer.encode_document(TEXTS), documents).min() > 0.9999
    assert cosines(transformer.encode(TEXTS), documents).min() > 0.9999  # the default prompt
    assert cosines(transformer.encode_query(QUERIES), model.embed_queries(QUERIES)).min() > 0.9999
    assert transformer.get_embedding_dimension() == model.dim


def test_sentence_transformers_cuts_long_texts_where_the_checkpoint_does(exported, transformer):
    model, _ = exported
    long = "A young child is riding a grey horse! " * 200
    with pytest.warns(UserWarning, match="cut"):
        own = model.embed_documents([long])
    assert cosines(transformer.encode_document([long]), own).min() > 0.9999


def test_what_sentence_transformers_users_do_next(exported, transformer, tmp_path):
    from sentence_transformers import SentenceTransformer

    model, _ = exported
    asked, passages = transformer.encode_query(QUERIES), transformer.encode_document(TEXTS)
    own = (
        torch.as_tensor(model.embed_queries(QUERIES))
        @ torch.as_tensor(model.embed_documents(TEXTS)).T
    )
    assert torch.allclose(transformer.similarity(asked, passages), own, atol=1e-4)
    transformer.save(str(tmp_path / "again"))
    again = SentenceTransformer(str(tmp_path / "again"))
    assert cosines(again.encode_query(QUERIES), asked).min() > 0.9999
    assert cosines(again.encode(TEXTS), passages).min() > 0.9999


def test_onnx_gives_what_the_decoder_gives(base_folder, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript", reason="needs the extra onnx")
    from transformers import AutoModel

    model = checkpoint(base_folder, tmp_path / "checkpoint")
    folder = export_sentence_transformers(tmp_path / "st", model.path, onnx=True)
    session = onnxruntime.InferenceSession(folder / "onnx" / "model.onnx")
    ids = torch.randint(300, (3, 17))  # other sizes than it was written with
    mask = (torch.arange(17) < torch.tensor([[17], [5], [9]])).long()
    given = {"input_ids": ids.numpy(), "attention_mask": mask.numpy()}
    found = torch.as_tensor(session.run(None, given)[0])
    own = AutoModel.from_pretrained(folder)(input_ids=ids, attention_mask=mask).last_hidden_state
    assert torch.allclose(found[mask.bool()], own[mask.bool()], atol=1e-4)


def test_mteb_scores_the_export_as_the_checkpoint(exported, transformer, tmp_path):
    import mteb

    from gem_rag_train.evaluation.mteb_tasks import GemEncoder, LocalRetrieval

    folder = tmp_path / "letters"
    (folder / "qrels").mkdir(parents=True)
    corpus = [{"_id": f"d{i}", "text": t} for i, t in enumerate(t for t in TEXTS if t)]
    queries = [{"_id": f"q{i}", "text": q} for i, q in enumerate(QUERIES)]
    for name, rows in (("corpus", corpus), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    lines = ["query-id\tcorpus-id\tscore", "q0\td3\t1", "q1\td2\t1", "q2\td2\t1"]
    (folder / "qrels" / "test.tsv").write_text("\n".join(lines))
    scores = [
        mteb.evaluate(one, LocalRetrieval(folder), cache=None, show_progress_bar=False)
        .task_results[0]
        .get_score()
        for one in (transformer, GemEncoder(exported[0]))
    ]
    assert scores[0] == pytest.approx(scores[1])


def test_llama_cpp_gives_the_checkpoints_vectors(exported, server):
    model, _ = exported
    after = "".join(f"<|gem_{i + 1}|>" for i in range(model.config.num_special_tokens))
    before = model.config.preamble
    found = llama_vectors(server, before, TEXTS, after)
    assert cosines(found, model.embed_documents(TEXTS)).min() > 0.9999
    found = llama_vectors(server, before + model.config.query_prefix, QUERIES, after)
    assert cosines(found, model.embed_queries(QUERIES)).min() > 0.9999


def test_llama_cpp_chats_as_the_base_between_embeddings(exported, server):
    model, _ = exported
    before = llama_chat(server, "Who wrote it?", 12)
    llama_vectors(server, model.config.preamble, TEXTS, "<|gem_1|><|gem_2|>")
    assert llama_chat(server, "Who wrote it?", 12) == before
    assert before == model.generate("Who wrote it?", max_tokens=12).text


@pytest.mark.parametrize(("outtype", "least"), [("f16", 0.999), ("bf16", 0.999), ("q8_0", 0.99)])
def test_llama_cpp_formats_cost_little(base_folder, tmp_path, outtype, least):
    model = checkpoint(base_folder, tmp_path / "checkpoint")
    server = llama_server(export_gguf(tmp_path / "gguf", model.path, outtype))
    found = llama_vectors(server, model.config.preamble, TEXTS, "<|gem_1|><|gem_2|>")
    assert cosines(found, model.embed_documents(TEXTS)).min() > least


def test_an_adapter_on_attention_reaches_llama_cpp(base_folder, tmp_path):
    model = checkpoint(base_folder, tmp_path / "checkpoint", targets=())
    server = llama_server(export_gguf(tmp_path / "gguf", model.path, "f32"))
    found = llama_vectors(server, model.config.preamble, TEXTS, "<|gem_1|><|gem_2|>")
    assert cosines(found, model.embed_documents(TEXTS)).min() > 0.9999
    with pytest.raises(UnsupportedModelError, match=r"o_proj.*adapter_rank = 0"):
        export_sentence_transformers(tmp_path / "st", model.path)


def test_peft_acts_from_the_first_special_token_on(base_folder, tmp_path):
    from peft import PeftModelForCausalLM
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    model = checkpoint(base_folder, tmp_path / "checkpoint", targets=())
    folder = export_gguf(tmp_path / "gguf", model.path) / "peft"
    rows = json.loads((folder / "adapter_config.json").read_text())["alora_invocation_tokens"]
    base = AutoModelForCausalLM.from_pretrained(base_folder)
    base.lm_head.weight = torch.nn.Parameter(base.lm_head.weight.detach().clone())
    vectors = load_file(folder / "special_tokens.safetensors")["special_tokens"].float()
    base.get_input_embeddings().weight.data[rows] = vectors
    adapted = PeftModelForCausalLM.from_pretrained(base, folder)
    for text in filter(None, TEXTS):
        [own] = model.codec.encode_texts([text], None)
        ids = torch.tensor([[*model.config.preamble_ids, *own.ids, *rows]])
        out = adapted(input_ids=ids, output_hidden_states=True).hidden_states[-1][:, -1]
        found = torch.nn.functional.normalize(out, dim=-1)
        assert cosines(found, model.embed_documents([text])).min() > 0.9999


def test_one_reading_serves_embedding_ranking_and_answering(exported):
    model, _ = exported
    text = TEXTS[0]
    [reading] = model.read([text])
    assert cosines(reading.embed()[None], model.embed_documents([text])).min() > 0.9999
    (ranked,), (afresh,) = (model.rank("Who wrote it?", [it]) for it in (reading, text))
    assert ranked.score == pytest.approx(afresh.score, abs=1e-5)
    answer = model.generate(" Who?", max_tokens=5, after=reading).text
    assert answer == model.generate(f"{text} Who?", max_tokens=5).text


def test_a_querys_words_stand_before_it(exported, base_folder, tmp_path):
    model, _ = exported
    prefixed = [model.config.query_prefix + query for query in QUERIES]
    asked = model.embed_queries(QUERIES)
    assert cosines(asked, model.embed_documents(prefixed)).min() > 0.9999
    one_by_one = [model.embed_query(query) for query in QUERIES]
    assert cosines(asked, one_by_one).min() > 0.9999
    other = checkpoint(base_folder, tmp_path / "other", *GRADES["adapter"], query_prefix="Who?\n")
    assert other.fingerprint != model.fingerprint
    assert other.parts.reading_fingerprint == model.parts.reading_fingerprint


def test_parts_of_a_reading_are_embedded_as_alone(exported):
    model, _ = exported
    [reading] = model.read([TEXTS[0]])
    whole = reading.embed([(0, len(TEXTS[0]))])
    assert cosines(whole, model.embed_documents([TEXTS[0]])).min() > 0.9999


def test_other_checkpoints_are_refused_with_the_recipe(gem, base_folder, tmp_path):
    folder = gem.save_pretrained(tmp_path / "other")
    for export in (export_sentence_transformers, export_gguf):
        with pytest.raises(CheckpointError, match=r"3 special tokens.*gem-rag train export"):
            export(tmp_path / "out", folder)
        with pytest.raises(CheckpointError, match="plain model"):
            export(tmp_path / "out", base_folder)
    assert not (tmp_path / "out").exists()


def test_one_token_with_an_adapter_is_no_matter_for_llama_cpp(base_folder, tmp_path):
    model = checkpoint(base_folder, tmp_path / "checkpoint", tokens=1)
    with pytest.raises(CheckpointError, match="expected two special tokens"):
        export_gguf(tmp_path / "gguf", model.path)
    assert (export_sentence_transformers(tmp_path / "st", model.path) / "modules.json").exists()


def test_folders_of_something_else_are_left_alone(base_folder, tmp_path):
    model = checkpoint(base_folder, tmp_path / "checkpoint")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    for export in (export_sentence_transformers, export_gguf):
        with pytest.raises(CheckpointError, match="choose a new folder"):
            export(tmp_path / "mine", model.path)
        export(tmp_path / export.__name__, model.path)
        export(tmp_path / export.__name__, model.path)  # an earlier export is replaced
    assert (tmp_path / "mine" / "letter.txt").read_text() == "dear"


def test_special_tokens_take_the_place_of_unused_ones(base_folder, tmp_path):
    from sentence_transformers import SentenceTransformer
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base_folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<spare_1>", "<spare_2>"]})
    tokenizer.save_pretrained(tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(base_folder)
    base.resize_token_embeddings(len(tokenizer))  # no row is left over
    base.save_pretrained(tmp_path / "base")
    model = checkpoint(tmp_path / "base", tmp_path / "checkpoint")
    texts = [*TEXTS, "a <spare_2> of old"]
    found = SentenceTransformer(str(export_sentence_transformers(tmp_path / "st", model.path)))
    assert cosines(found.encode(texts), model.embed_documents(texts)).min() > 0.9999
    server = llama_server(export_gguf(tmp_path / "gguf", model.path, "f32"))
    vectors = llama_vectors(server, model.config.preamble, texts, "<|gem_1|><|gem_2|>")
    assert cosines(vectors, model.embed_documents(texts)).min() > 0.9999
    other = checkpoint(tmp_path / "base", tmp_path / "other", tokens=3)
    with pytest.raises(UnsupportedModelError, match="2 unused rows"):
        export_gguf(tmp_path / "gguf", other.path)


def test_a_base_of_another_family_says_so(tmp_path):
    base = make_base(tmp_path / "gemma", "gemma2")
    model = checkpoint(base, tmp_path / "checkpoint")
    with pytest.raises(UnsupportedModelError, match="gemma2"):
        export_sentence_transformers(tmp_path / "st", model.path)
    with pytest.raises(UnsupportedModelError, match="gemma2"):
        export_gguf(tmp_path / "gguf", model.path)
    tokens = checkpoint(base, tmp_path / "tokens", 1, 0)
    from sentence_transformers import SentenceTransformer

    found = SentenceTransformer(str(export_sentence_transformers(tmp_path / "st", tokens.path)))
    assert cosines(found.encode(TEXTS), tokens.embed_documents(TEXTS)).min() > 0.999


def test_the_command_writes_and_says_what(base_folder, tmp_path):
    model = checkpoint(base_folder, tmp_path / "checkpoint")
    run = CliRunner().invoke
    named = ["--model", str(model.path), "--json"]
    done = run(app, ["export", "gguf", str(tmp_path / "gguf"), *named, "--outtype", "q8_0"])
    assert json.loads(done.stdout)["files"].keys() >= {"base-q8_0.gguf", "adapter.gguf"}
    card = (tmp_path / "gguf" / "README.md").read_text()
    assert "llama-server -m base-q8_0.gguf --lora adapter.gguf --embeddings --pooling last" in card
    done = run(app, ["export", "sentence-transformers", str(tmp_path / "st"), *named])
    assert "modules.json" in json.loads(done.stdout)["files"]
    card = (tmp_path / "st" / "README.md").read_text()
    assert re.search(r"encode_query\(.*trust", card, re.DOTALL) is None


NAME = "smollm2-135m-instruct-export"
PASSAGES = [
    "The kettle has a warranty of seven years.",
    "In 2024, 1,250 people visited the museum; admission is free on Sundays.",
    "def add(a, b):\n    return a + b\n",
    "Photosynthesis turns light, water and carbon dioxide into sugar and oxygen. " * 8,
]


@pytest.fixture(scope="module")
def bundled():
    return GemModel.from_pretrained(NAME)


@pytest.mark.model
def test_the_bundled_checkpoint_in_sentence_transformers(bundled, tmp_path):
    from sentence_transformers import SentenceTransformer

    found = SentenceTransformer(str(export_sentence_transformers(tmp_path / "st")))
    assert cosines(found.encode(PASSAGES), bundled.embed_documents(PASSAGES)).min() > 0.999
    asked = "How long is the warranty?"
    vector = found.encode_query(asked)
    assert cosines([vector], [bundled.embed_query(asked)]).min() > 0.999
    nearest = found.similarity(vector, found.encode_document(PASSAGES)).argmax()
    assert nearest == 0


@pytest.mark.model
def test_the_bundled_checkpoint_in_llama_cpp(bundled, tmp_path):
    server = llama_server(export_gguf(tmp_path / "gguf"), context=1100)
    before, after = bundled.config.preamble, "<|gem_1|><|gem_2|>"
    found = llama_vectors(server, before, PASSAGES, after)
    assert cosines(found, bundled.embed_documents(PASSAGES)).min() > 0.999
    asked = "How long is the warranty?"
    found = llama_vectors(server, before + bundled.config.query_prefix, [asked], after)
    assert cosines(found, [bundled.embed_query(asked)]).min() > 0.999
    question = "What is the capital of France?"
    assert llama_chat(server, question, 24) == bundled.generate(question, max_tokens=24).text
