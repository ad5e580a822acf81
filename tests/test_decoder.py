"""Our forward against transformers', for every family and every way it is called."""

import copy

import pytest
import torch
from tiny import SMALL, tiny_config
from torch import nn

from gem_rag.compute import attend, linear, probe, recognise
from gem_rag.compute.adapter import EVERYWHERE, Acting
from gem_rag.compute.attention import Role, Tokens, additive, positions_of, span_mask, together
from gem_rag.compute.base import Base
from gem_rag.compute.decoder import Decoder, Unrecognised, check
from gem_rag.compute.kv import empty_cache, layers_of, seeded_cache
from gem_rag.compute.linear import Packed, Plain
from gem_rag.compute.replaced import Part
from gem_rag.config import AdapterConfig

CLOSE = {"rtol": 0, "atol": 1e-4}
KNOWN = ["llama", "mistral", "qwen2", "qwen3", "gemma3", "phi3", "smollm3", "mixed", "partial"]


def config_of(family):
    import transformers as tf

    more = {
        "mixed": lambda: tf.Qwen2Config(
            **SMALL,
            use_sliding_window=True,
            sliding_window=8,
            layer_types=["full_attention", "sliding_attention"],
        ),
        "partial": lambda: tf.Phi3Config(
            **{**SMALL, "hidden_size": 64},
            sliding_window=8,
            rope_parameters={
                "rope_type": "default",
                "rope_theta": 1e4,
                "partial_rotary_factor": 0.5,
            },
        ),
        "smollm3": lambda: tf.SmolLM3Config(**SMALL, no_rope_layers=[1, 0]),
        "granite": lambda: tf.GraniteConfig(**SMALL, embedding_multiplier=12.0),
        "olmo2": lambda: tf.Olmo2Config(**SMALL),
        "mixtral": lambda: tf.MixtralConfig(**SMALL, num_local_experts=2),
        "stablelm": lambda: tf.StableLmConfig(**SMALL),
    }
    return more[family]() if family in more else tiny_config(family)


def make(family, dtype=torch.float32):
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    config = config_of(family)
    config.initializer_range = 0.2
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    with torch.no_grad():  # norms and biases that do something
        for name, parameter in model.named_parameters():
            if "norm" in name or name.endswith("bias"):
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


@pytest.fixture(scope="module", params=KNOWN)
def both(request):
    """Transformers' forward over its own weights, and ours over packed ones."""
    model = make(request.param)
    theirs, replaced = Base(copy.deepcopy(model)), Base(model)
    return theirs, Decoder.of(replaced), replaced


@pytest.fixture(scope="module")
def llama():
    model = make("llama")
    return Base(copy.deepcopy(model)), Decoder.of(Base(model), keep_weights=True)


def random_ids(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, SMALL["vocab_size"], shape, generator=generator)


def caches(base, layers=None):
    return empty_cache(layers or base.num_layers), empty_cache(layers or base.num_layers)


def prefix(lengths, width, side="right", start=0):
    """Tokens of padded rows."""
    index = torch.arange(width).expand(len(lengths), -1)
    lengths = torch.tensor(lengths)[:, None]
    valid = index < lengths if side == "right" else index >= width - lengths
    return Tokens(positions_of(valid, start), torch.where(valid, Role.PREFIX, Role.PADDING))


def adapter_on(base, seed=1, **options):
    torch.manual_seed(seed)
    adapter = base.new_adapter(AdapterConfig(rank=4, **options))
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.normal_(std=0.2)
    return adapter


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


@pytest.mark.parametrize("length", [1, 6, 40])
@pytest.mark.parametrize("rows", [1, 3])
def test_plain_causal_rows(both, rows, length):
    theirs, decoder, _ = both
    ids, index = random_ids(rows, length), torch.arange(length).expand(rows, -1)
    here, there = caches(theirs)
    found, expected = decoder.run(ids, index, None, here), theirs.run(ids, index, None, there)
    torch.testing.assert_close(found, expected, **CLOSE)
    torch.testing.assert_close(decoder.logits(found), theirs.logits(expected), **CLOSE)
    for ours_, theirs_ in zip(layers_of(here), layers_of(there), strict=True):
        torch.testing.assert_close(ours_, theirs_, **CLOSE)
    for at in range(length, length + 3):  # step by step from there
        more, where = random_ids(rows, 1, seed=at), torch.full((rows, 1), at)
        found, expected = (
            f.run(more, where, None, c) for f, c in ((decoder, here), (theirs, there))
        )
        torch.testing.assert_close(found, expected, **CLOSE)


def test_chunks_continue_without_a_mask(both):
    theirs, decoder, _ = both
    ids, index = random_ids(1, 30), torch.arange(30)[None]
    here, there = caches(theirs)
    found = [decoder.run(ids[:, a:b], index[:, a:b], None, here) for a, b in ((0, 12), (12, 30))]
    torch.testing.assert_close(torch.cat(found, 1), theirs.run(ids, index, None, there), **CLOSE)


@pytest.mark.parametrize("scores", [64, 600, 2**20])
@pytest.mark.parametrize("side", ["right", "left"])
def test_padded_rows_after_a_seeded_cache(both, side, scores, monkeypatch):
    monkeypatch.setattr(attend, "SCORES", scores)
    theirs, decoder, _ = both
    start, lengths = 5, [20, 3, 11]
    head, _ = caches(theirs)
    theirs.run(random_ids(1, start), torch.arange(start)[None], None, head)
    seeds = [(k.expand(3, -1, -1, -1), v.expand(3, -1, -1, -1)) for k, v in layers_of(head)]
    read, text = prefix([start] * 3, start), prefix(lengths, 20, side, start)
    keys, ids = together(read, text), random_ids(3, 20)
    mask, real = theirs.masks(text, keys), text.roles != Role.PADDING
    here, there = seeded_cache(seeds, 30), seeded_cache(seeds, 30)
    found = decoder.run(ids, text.positions, mask, here)
    expected = theirs.run(ids, text.positions, mask, there)
    assert found.isfinite().all()
    torch.testing.assert_close(found[real], expected[real], **CLOSE)
    last = Tokens(text.lengths[:, None] + start, torch.full((3, 1), Role.PREFIX))
    mask = theirs.masks(last, together(keys, last))
    found = decoder.run(ids[:, :1], last.positions, mask, here)
    expected = theirs.run(ids[:, :1], last.positions, mask, there)
    torch.testing.assert_close(found, expected, **CLOSE)


def test_the_first_layers_only(both):
    theirs, decoder, _ = both
    ids, index = random_ids(2, 9), torch.arange(9).expand(2, -1)
    here, there = caches(theirs, layers=1)
    expected = theirs.run(ids, index, None, there)
    torch.testing.assert_close(decoder.run(ids, index, None, here), expected, **CLOSE)


def specials(base, rows, count=3):
    """A read cache twice, special tokens as vectors, and their mask."""
    lengths = [12, 7, 20][:rows]
    read = prefix(lengths, 20)
    here, there = caches(base)
    for cache in (here, there):
        base.run(random_ids(rows, 20), read.positions, base.masks(read, read), cache)
    positions = read.lengths[:, None] + torch.arange(count)
    queries = Tokens(positions, torch.full((rows, count), Role.SPECIAL))
    torch.manual_seed(3)
    vectors = torch.randn(rows, count, base.hidden_size)
    return here, there, vectors, positions, base.masks(queries, together(read, queries))


@pytest.mark.parametrize(
    "where", [EVERYWHERE, slice(1, None), torch.tensor([0, 2]), torch.tensor([True, False, True])]
)
def test_specials_with_an_adapter_at_positions(both, where):
    theirs, decoder, _ = both
    adapter = adapter_on(theirs)
    here, there, vectors, positions, mask = specials(theirs, 3)
    expected = theirs.run(vectors, positions, mask, there, adapter.at(where))
    found = decoder.run(vectors, positions, mask, here, [Acting(adapter, where)])
    torch.testing.assert_close(found, expected, **CLOSE)


def test_an_adapter_of_some_layers_and_targets(llama):
    theirs, decoder = llama
    adapter = adapter_on(theirs, targets=("k_proj", "down_proj"))
    here, there, vectors, positions, mask = specials(theirs, 2)
    expected = theirs.run(vectors, positions, mask, there, adapter.at(EVERYWHERE))
    found = decoder.run(vectors, positions, mask, here, [Acting(adapter, EVERYWHERE)])
    torch.testing.assert_close(found, expected, **CLOSE)


def test_two_adapters_in_one_batch_each_at_rows_of_its_own(llama):
    theirs, decoder = llama
    first, second = adapter_on(theirs, 1), adapter_on(theirs, 2)
    here, there, vectors, positions, mask = specials(theirs, 3)
    rows = torch.zeros(2, 3, 3, dtype=torch.bool)
    rows[0, 0, 1:], rows[1, 2] = True, True
    acting = [Acting(first, rows[0]), Acting(second, rows[1])]
    found = decoder.run(vectors, positions, mask, here, acting)
    seeds = layers_of(there)
    for row, (adapter, where) in enumerate(
        [(first, slice(1, None)), (first, None), (second, EVERYWHERE)]
    ):
        one = seeded_cache([(k[[row]], v[[row]]) for k, v in seeds])
        expected = theirs.run(vectors[[row]], positions[[row]], mask[[row]], one, adapter.at(where))
        torch.testing.assert_close(found[[row]], expected, **CLOSE)


def test_weights_of_an_adapter_that_changed_in_place_are_seen(llama):
    theirs, decoder = llama
    with torch.inference_mode(False):
        adapter = adapter_on(theirs)
    for turn in range(2):
        here, there, vectors, positions, mask = specials(theirs, 2)
        expected = theirs.run(vectors, positions, mask, there, adapter.at(EVERYWHERE))
        found = decoder.run(vectors, positions, mask, here, [Acting(adapter, EVERYWHERE)])
        torch.testing.assert_close(found, expected, msg=f"turn {turn}", **CLOSE)
        with torch.inference_mode(False), torch.no_grad():
            for parameter in adapter.parameters():
                parameter.mul_(-1.5)


def test_spans_of_one_reading_side_by_side(both):
    theirs, decoder, _ = both
    here, there = caches(theirs)
    read = prefix([16], 16)
    for cache in (here, there):
        theirs.run(random_ids(1, 16), read.positions, None, cache)
    roles = torch.full((2, 16), Role.PADDING)
    roles[0, :7], roles[1, 4:15] = Role.PREFIX, Role.PREFIX
    queries = Tokens(torch.tensor([[7, 8], [15, 16]]), torch.full((2, 2), Role.SPECIAL))
    keys = together(Tokens(torch.arange(16).expand(2, -1), roles), queries)
    mask = theirs.mask_argument(
        {
            kind: additive(span_mask(m, 16), torch.float32)
            for kind, m in theirs.bool_masks(queries, keys).items()
        }
    )
    vectors, positions = torch.randn(1, 4, theirs.hidden_size), queries.positions.view(1, -1)
    expected = theirs.run(vectors, positions, mask, there)
    torch.testing.assert_close(decoder.run(vectors, positions, mask, here), expected, **CLOSE)


def test_every_way_of_attending_agrees():
    q, k, v = (torch.randn(2, heads, n, 8) for heads, n in ((4, 5), (2, 9), (2, 9)))
    mask = attend._causal(5, 9, 3, q)[None, None]
    expected = torch.nn.functional.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, scale=0.3, enable_gqa=True
    )
    for window, given in ((3, None), (0, mask)):
        torch.testing.assert_close(attend.attend(q, k, v, given, window, 0.3), expected)
    half = attend.attend(q.half(), k.half(), v.half(), None, 3, 0.3)
    torch.testing.assert_close(half.float(), expected, atol=1e-2, rtol=1e-2)
    last = attend.attend(q[:, :, -1:], k, v, None, 3, 0.3)
    torch.testing.assert_close(last, expected[:, :, -1:])


def test_the_models_own_weights_are_gone_and_it_goes_on_working(both):
    theirs, decoder, replaced = both
    model = replaced.model
    linears = [m for m in model.modules() if isinstance(m, nn.Linear)]
    assert all(isinstance(m, Part) for m in linears)
    left = sum(p.nbytes for p in model.parameters())
    whole = sum(p.nbytes for p in theirs.model.parameters())
    tied = replaced.config.tie_word_embeddings
    embedding = model.get_input_embeddings().weight.nbytes
    assert left < embedding + 0.02 * whole
    assert whole <= decoder.nbytes + 2 * replaced.hidden_size * 4 * (1 + replaced.num_layers)
    assert decoder.nbytes < 1.05 * whole + (embedding if tied else 0)
    ids = random_ids(2, 11)
    torch.testing.assert_close(model(ids).logits, theirs.model(ids).logits, **CLOSE)
    hidden = torch.randn(3, replaced.hidden_size)
    torch.testing.assert_close(replaced.logits(hidden), theirs.logits(hidden), **CLOSE)
    expected = theirs.model.state_dict()
    assert model.state_dict().keys() == expected.keys()
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, expected[name]), name


def test_a_replaced_model_can_be_saved_and_loaded(tmp_path):
    from transformers import AutoModelForCausalLM

    model = make("qwen2")
    expected = {name: weight.clone() for name, weight in model.state_dict().items()}
    Decoder.of(Base(model))
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    for name, weight in again.state_dict().items():
        assert torch.equal(weight, expected[name]), name


def test_gradients_flow_through_a_replaced_model():
    with torch.inference_mode(False), torch.enable_grad():
        model = make("llama")
        theirs = copy.deepcopy(model)
        Decoder.of(Base(model))
        vectors = torch.randn(1, 5, SMALL["hidden_size"])
        found, expected = vectors.clone().requires_grad_(), vectors.clone().requires_grad_()
        model(inputs_embeds=found).logits.square().sum().backward()
        theirs(inputs_embeds=expected).logits.square().sum().backward()
    torch.testing.assert_close(found.grad, expected.grad, rtol=1e-3, atol=1e-3)


def test_adapters_made_before_and_after_the_replacing_act(llama):
    theirs, _ = llama
    base = Base(make("llama"))
    before = adapter_on(base)
    Decoder.of(base)
    reference, after = adapter_on(theirs), adapter_on(base)
    ids, index = random_ids(1, 6), torch.arange(6)[None]
    expected = theirs.run(ids, index, None, caches(theirs)[0], reference.at(EVERYWHERE))
    for adapter in (before, after):
        found = base.run(ids, index, None, caches(base)[0], adapter.at(EVERYWHERE))
        torch.testing.assert_close(found, expected, **CLOSE)


def test_weights_that_are_kept_are_the_same_objects():
    model = make("llama")
    weights = dict(model.named_parameters())
    Decoder.of(Base(model), keep_weights=True)
    assert all(p is weights[name] for name, p in model.named_parameters())
    assert len(weights) == len(dict(model.named_parameters()))


@pytest.mark.parametrize(
    ("family", "reason"),
    [
        ("granite", "embedding_multiplier = 12.0"),
        ("olmo2", "self_attn.q_norm|post_feedforward_layernorm"),
        ("gpt_neox", "embed_in"),
        ("gemma2", "attn_logit_softcapping"),
        ("mixtral", "mlp.experts"),
        ("stablelm", "input_layernorm.bias"),
    ],
)
def test_what_is_not_known_is_refused_with_the_reason(family, reason):
    model = make(family)
    weights = dict(model.named_parameters())
    with pytest.raises(Unrecognised, match=reason):
        Decoder.of(Base(model))
    assert all(p is weights[name] for name, p in model.named_parameters())


def sabotage_residual(base):
    for block in base.blocks:
        block.register_forward_hook(lambda _, __, out: out * 1.01)


def sabotage_rotary(base):
    for block in base.blocks:
        block.self_attn.use_rope = False


def sabotage_activation(base):
    base.config.hidden_act = "gelu"


def sabotage_window(base):
    base.config.layer_types = ["full_attention"] * 2
    base.config.sliding_window = None


@pytest.mark.parametrize(
    "sabotage", [sabotage_residual, sabotage_rotary, sabotage_activation, sabotage_window]
)
def test_a_forward_that_deviates_is_refused_and_the_model_as_it_was(sabotage, monkeypatch):
    base = Base(make("mistral"))
    expected = {name: weight.clone() for name, weight in base.model.state_dict().items()}
    if sabotage is sabotage_window:
        monkeypatch.setattr(Decoder, "_attention", _without_masks(Decoder._attention))
    else:
        sabotage(base)
    with pytest.raises(Unrecognised, match="deviates by"):
        Decoder.of(base)
    assert not any(isinstance(m, Part) for m in base.model.modules())
    for name, weight in base.model.named_parameters():
        assert torch.equal(weight, expected[name]), name
    assert base.model.state_dict().keys() == expected.keys()


def _without_masks(attention):
    def blind(self, block, x, batch, mask, *rest):
        return attention(self, block, x, batch, None, *rest)

    return blind


def test_a_changed_weight_makes_the_check_fail(llama):
    base = Base(make("llama"))
    decoder = Decoder.of(base, keep_weights=True)
    assert check(base, decoder) < probe.BOUNDS[torch.float32]
    base.blocks[1].mlp.up_proj.weight.mul_(1.02)
    assert check(base, decoder) > probe.BOUNDS[torch.float32]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", ["llama", "gemma3", "phi3"])
def test_short_number_formats_agree_to_their_rounding(family, dtype):
    base = Base(make(family, dtype))
    decoder = Decoder.of(base)
    assert check(base, decoder) < probe.BOUNDS[dtype]


def test_weights_of_two_formats_are_refused():
    model = make("llama")
    model.model.norm.bfloat16()
    with pytest.raises(Unrecognised, match=r"torch\.bfloat16"):
        recognise.require_known(Base(model))


@pytest.mark.parametrize("bias", [None, torch.randn(48)])
def test_linear_kinds_agree_and_give_their_weight_back(bias):
    weight, x = torch.randn(48, 32), torch.randn(5, 32)
    plain = Plain(weight, bias)
    assert plain.dense() is weight
    if linear.can_pack(weight):
        packed = Packed(weight, bias)
        torch.testing.assert_close(packed(x), plain(x))
        assert torch.equal(packed.dense(), weight)
        assert packed.nbytes == plain.nbytes
        assert packed(x[:0]).shape == (0, 48)


def test_plain_serves_where_torch_cannot_pack(monkeypatch):
    assert isinstance(linear.choose(torch.randn(8, 8, dtype=torch.float64)), Plain)
    monkeypatch.setattr(linear, "can_pack", lambda _: False)
    base = Base(make("llama"))
    decoder = Decoder.of(base)
    assert check(base, decoder) < probe.BOUNDS[torch.float32]
    assert all(isinstance(b.qkv, Plain) for b in decoder.blocks)


def test_a_trial_decides_once_for_each_shape(monkeypatch):
    if not linear.can_pack(torch.zeros(8, 8)):
        pytest.skip("this torch cannot pack")
    trials = []
    monkeypatch.setattr(linear, "_packs", {})
    monkeypatch.setattr(linear, "_gain", lambda *_: trials.append(1) or 0.1)
    for _ in range(2):
        assert isinstance(linear.choose(torch.randn(24, 16)), Plain)
    assert len(trials) == 1


def test_hardware_bf16_answers_without_raising(monkeypatch):
    assert linear.hardware_bf16() in (True, False)
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert linear.hardware_bf16() in (True, False)


@pytest.mark.model
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_default_model(dtype):
    from gem_rag.model import GemModel

    with torch.inference_mode(False):
        model = GemModel.from_pretrained(dtype=dtype)
        decoder = Decoder.of(model.base, keep_weights=True)
    assert check(model.base, decoder) < probe.BOUNDS[model.base.dtype]
    if dtype == "float32":
        ids = torch.tensor([model.codec.prompt_ids("Why is the sky blue?")])
        index = torch.arange(ids.shape[1])[None]
        here, there = caches(model.base)
        found = decoder.logits(decoder.run(ids, index, None, here))
        expected = model.base.logits(model.base.run(ids, index, None, there))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)
        assert torch.equal(found.argmax(-1), expected.argmax(-1))
