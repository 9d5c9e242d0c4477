"""Encoders: pooling by hand, batching, resuming, and what cannot be read."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.toy import toy_encoder, toy_student
from transformers import AutoModel, AutoTokenizer

from seedtalk import encoders
from seedtalk.encoders import encode
from seedtalk.errors import InputError

TEXTS = [
    "A creepy seance.",
    "My sister and the film club liked the heist, the detective and the double cross " * 3,
    "Tender",
    "zzz !",
    "A tender courtship in a futuristic spaceship, with patience.",
    "The lighting is superb and the joke is daft",
]


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # models this small only lose time to more
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    toy_encoder(folder / "encoder")
    toy_student(folder / "student")
    return folder


@pytest.fixture
def run(models, tmp_path):
    def call(texts, model="encoder", **options):
        places = {"cache_dir": tmp_path / "cache"}
        return encode(texts, str(models / model), **(places | options))

    return call


def by_hand(folder, text, pooling, max_tokens=128):
    """Run one text alone, without padding, and pool its last hidden layer."""
    ids = AutoTokenizer.from_pretrained(folder)(text)["input_ids"]
    if len(ids) > max_tokens:  # what truncation keeps: the first tokens and a closing [SEP]
        ids = AutoTokenizer.from_pretrained(folder)(text, truncation=True, max_length=max_tokens)[
            "input_ids"
        ]
    with torch.no_grad():
        hidden = AutoModel.from_pretrained(folder).eval()(torch.tensor([ids])).last_hidden_state[0]
    if pooling == "weighted":
        weights = torch.arange(1, len(ids) + 1, dtype=torch.float64)
        return ((weights[:, None] * hidden).sum(dim=0) / weights.sum()).float().numpy()
    return (hidden.mean(dim=0) if pooling == "mean" else hidden[-1]).numpy()


@pytest.mark.parametrize("model", ["encoder", "student"])
@pytest.mark.parametrize("pooling", ["mean", "last", "weighted"])
def test_vectors_are_the_pooled_last_hidden_layer_over_real_tokens(run, models, model, pooling):
    found = run(TEXTS, model, pooling=pooling, normalize=False)
    assert found.dtype == np.float32
    for text, vector in zip(TEXTS, found, strict=True):
        assert vector == pytest.approx(by_hand(models / model, text, pooling), abs=2e-5)


def test_normalised_vectors_have_length_one_and_keep_their_direction(run):
    raw, unit = run(TEXTS, normalize=False), run(TEXTS)
    assert np.linalg.norm(unit, axis=1) == pytest.approx(np.ones(len(TEXTS)))
    assert unit == pytest.approx(raw / np.linalg.norm(raw, axis=1, keepdims=True), abs=1e-6)


@pytest.mark.parametrize("batch_tokens", [1, 17, 64, 100_000])
@pytest.mark.parametrize("model", ["encoder", "student"])
def test_the_batches_do_not_matter(run, model, batch_tokens):
    assert run(TEXTS * 3, model, batch_tokens=batch_tokens) == pytest.approx(
        run(TEXTS * 3, model), abs=1e-5
    )


def test_max_tokens_cuts_a_text(run, models):
    cut = run(TEXTS, max_tokens=9, normalize=False)
    assert cut[1] == pytest.approx(by_hand(models / "encoder", TEXTS[1], "mean", 9), abs=2e-5)
    assert cut[2] == pytest.approx(by_hand(models / "encoder", TEXTS[2], "mean"), abs=2e-5)


def test_padded_tokens_stay_within_the_batch_and_every_text_has_a_place():
    lengths = [5, 90, 1, 0, 40, 41, 7, 128, 3] * 60
    parts = list(encoders._parts(lengths, 128))
    batches = [batch for part in parts for batch in part]
    rows = sorted(int(row) for batch in batches for row in batch)
    assert rows == [row for row, length in enumerate(lengths) if length]
    for batch in batches:
        longest = max(lengths[row] for row in batch)
        assert len(batch) == 1 or longest * len(batch) <= 128
    sizes = [sum(map(len, part)) for part in parts]
    assert all(256 <= size < 256 + 128 for size in sizes[:-1])


def test_no_texts_and_empty_texts(run):
    assert run([]).shape == (0, 32)
    assert np.isfinite(run(["", "a"])).all()
    bare = run(["", "Tender"], "student")  # a byte tokenizer makes no token of it
    assert (bare[0] == 0).all()
    assert np.linalg.norm(bare[1]) == pytest.approx(1)


def test_a_gguf_folder_goes_through_the_students_loader(run, models, tmp_path, monkeypatch):
    from transformers import AutoModelForCausalLM

    from seedtalk.students import loading

    folder = tmp_path / "model"
    folder.mkdir(parents=True)
    (folder / "any.gguf").touch()
    calls = []

    def load_base(student, **places):
        calls.append((student, places))
        model = AutoModelForCausalLM.from_pretrained(models / "student").eval()
        return model, AutoTokenizer.from_pretrained(models / "student")

    monkeypatch.setattr(loading, "load_base", load_base)
    expected = run(TEXTS, "student")
    assert (encode(TEXTS, str(folder), cache_dir=tmp_path) == expected).all()
    assert calls == [(str(folder), {"cache_dir": tmp_path})]


def test_a_cut_off_run_goes_on_where_it_was(run, tmp_path, monkeypatch):
    texts = [f"{text} {n}" for n in range(10) for text in TEXTS]
    whole = run(texts)
    monkeypatch.setattr(encoders, "_PART", 8)
    real, done = encoders._forward, []

    def forward(model, batch, *rest):
        if len(done) == 4:
            raise KeyboardInterrupt
        done.append(len(batch))
        return real(model, batch, *rest)

    partial = tmp_path / "partial"
    options = {"batch_tokens": 200, "partial": partial}
    monkeypatch.setattr(encoders, "_forward", forward)
    with pytest.raises(KeyboardInterrupt):
        run(texts, **options)
    kept = sum(len(np.load(file)) for file in partial.rglob("*.npy"))
    assert kept == sum(done[:3])  # the part in work is lost, no more
    done.clear()
    monkeypatch.setattr(
        encoders, "_forward", lambda m, batch, *r: done.append(len(batch)) or real(m, batch, *r)
    )
    assert run(texts, **options) == pytest.approx(whole, abs=1e-5)
    assert sum(done) == len(texts) - kept
    done.clear()
    run(texts, **options)
    assert done == []


def test_parts_of_other_texts_weights_or_options_are_not_used(run, models, tmp_path):
    partial = tmp_path / "partial"

    def keys():
        return {path.name for path in partial.iterdir()}

    run(TEXTS, partial=partial)
    first = keys()
    run(TEXTS, partial=partial, normalize=False)  # applied after pooling: the parts still fit
    assert keys() == first
    run(TEXTS[::-1], partial=partial)
    run(TEXTS, partial=partial, pooling="last")
    run(TEXTS, partial=partial, max_tokens=9)
    run(TEXTS, partial=partial, batch_tokens=99)
    assert len(keys()) == 5
    other = shutil.copytree(models / "encoder", tmp_path / "other")
    model = AutoModel.from_pretrained(other)
    with torch.no_grad():
        next(model.parameters())[0, 0] += 1e-6
    model.save_pretrained(other)
    encode(TEXTS, str(other), cache_dir=tmp_path, partial=partial)
    assert len(keys()) == 6


def test_windows_and_streaming_change_nothing(run, tmp_path, monkeypatch):
    texts = [f"{text} {n}" for n in range(4) for text in TEXTS]
    whole = run(texts)
    monkeypatch.setattr(encoders, "_WINDOW", 7)
    streamed = run(texts, out=tmp_path / "a" / "x.npy", partial=tmp_path / "partial")
    assert isinstance(streamed, np.memmap)
    streamed.flush()
    assert np.load(tmp_path / "a" / "x.npy") == pytest.approx(whole, abs=1e-5)
    again = run(texts, out=tmp_path / "b.npy", partial=tmp_path / "partial")
    assert (np.asarray(again) == np.asarray(streamed)).all()
    assert run([], out=tmp_path / "none.npy").shape == (0, 32)


def test_a_loaded_encoder_serves_many_calls(run, models, tmp_path, monkeypatch):
    encoder = encoders.load(str(models / "student"), cache_dir=tmp_path)
    expected = run(TEXTS, "student")
    monkeypatch.setattr(encoders, "_load", lambda *_: pytest.fail("loaded again"))
    for _ in range(2):
        assert (encode(TEXTS, encoder, cache_dir=tmp_path) == expected).all()


def test_a_torn_part_is_made_again(run, tmp_path):
    partial = tmp_path / "partial"
    whole = run(TEXTS, partial=partial)
    for file in partial.rglob("*.npy"):
        file.write_bytes(file.read_bytes()[:-5])
    assert (run(TEXTS, partial=partial) == whole).all()
    for file in partial.rglob("*.npy"):
        np.save(file, np.zeros((2, 2), np.float32))
    assert (run(TEXTS, partial=partial) == whole).all()


def test_a_missing_embedded_encoder_says_how_to_get_it(tmp_path):
    with pytest.raises(InputError, match="minilm: no such folder.*`seedtalk fetch quickstart`"):
        encode(TEXTS, str(tmp_path / "minilm"), cache_dir=tmp_path)


def test_what_is_no_encoder_is_refused(run, models, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    places = {"cache_dir": tmp_path}
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"embed\.encoder: cannot read '.*empty'"):
        encode(TEXTS, str(tmp_path / "empty"), **places)
    with pytest.raises(InputError, match=r"embed\.pooling: 'max' is none of mean, last, weighted"):
        run(TEXTS, pooling="max")
    with pytest.raises(
        InputError, match=r"embed\.max_tokens: 513 is over the 512 tokens that '.*encoder'"
    ):
        run(TEXTS, max_tokens=513)
    pickled = shutil.copytree(models / "encoder", tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(InputError, match="safetensors"):
        encode(TEXTS, str(pickled), **places)
    config = json.loads((models / "encoder" / "config.json").read_text())
    unknown = shutil.copytree(models / "encoder", tmp_path / "unknown")
    (unknown / "config.json").write_text(json.dumps(config | {"model_type": "nothing-known"}))
    with pytest.raises(InputError, match="cannot read"):
        encode(TEXTS, str(unknown), **places)


MINILM = Path(__file__).parents[2] / "data" / "quickstart" / "minilm"


@pytest.mark.skipif(not MINILM.is_dir(), reason="needs `seedtalk fetch quickstart`")
def test_minilm_gives_its_published_similarities(tmp_path):
    texts = [
        "A man is eating pasta.",
        "A man is eating food.",
        "A man is eating a piece of bread.",
        "A man is riding a horse.",
    ]
    vectors = encode(texts, str(MINILM), cache_dir=tmp_path)
    # The semantic search example in the documentation of sentence-transformers.
    assert (vectors @ vectors.T)[0, 1:] == pytest.approx([0.7035, 0.5272, 0.1889], abs=1e-4)


def sentence_encoder(models, folder, modes, modules=("Transformer", "Pooling", "Normalize")):
    """Write a folder as sentence-transformers writes it."""
    shutil.copytree(models / "encoder", folder)
    paths = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
    listed = [
        {"idx": n, "name": str(n), "path": paths.get(name, name), "type": f"st.models.{name}"}
        for n, name in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    config = {"word_embedding_dimension": 32, "include_prompt": True}
    config |= {f"pooling_mode_{mode}": mode in modes for mode in ("cls_token", *MODES)}
    (folder / "1_Pooling/config.json").write_text(json.dumps(config))
    return folder


MODES = ("mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")


@pytest.mark.parametrize("mode", ["mean_tokens", "weightedmean_tokens", "lasttoken"])
def test_a_sentence_encoder_with_an_offered_pooling_is_read(models, tmp_path, mode):
    folder = sentence_encoder(models, tmp_path / "it", [mode])
    assert encode(TEXTS, str(folder), cache_dir=tmp_path).shape[0] == len(TEXTS)


@pytest.mark.parametrize(
    "modes",
    [["cls_token"], ["max_tokens"], ["mean_sqrt_len_tokens"], ["mean_tokens", "max_tokens"]],
)
def test_a_pooling_that_is_not_offered_is_refused(models, tmp_path, modes):
    folder = sentence_encoder(models, tmp_path / "it", modes)
    message = rf"it/1_Pooling/config\.json pools by {modes[-1]}.*embed\.pooling \(mean, last"
    with pytest.raises(InputError, match=message):
        encode(TEXTS, str(folder), cache_dir=tmp_path)


def test_a_dense_layer_after_the_pooling_is_refused(models, tmp_path):
    modules = ["Transformer", "Pooling", "Dense", "Normalize"]
    folder = sentence_encoder(models, tmp_path / "it", ["mean_tokens"], modules)
    with pytest.raises(InputError, match=r"it/modules\.json has a Dense module.*only Transformer"):
        encode(TEXTS, str(folder), cache_dir=tmp_path)


@pytest.mark.parametrize("file", ["modules.json", "1_Pooling/config.json"])
def test_a_torn_description_of_an_encoder_is_named(models, tmp_path, file):
    folder = sentence_encoder(models, tmp_path / "it", ["mean_tokens"])
    (folder / file).write_text("{")
    with pytest.raises(InputError, match=rf"it/{file} is no JSON"):
        encode(TEXTS, str(folder), cache_dir=tmp_path)


def test_a_roberta_reads_fewer_tokens_than_it_has_positions(models, tmp_path):
    from transformers import RobertaConfig, RobertaModel

    tokenizer = AutoTokenizer.from_pretrained(models / "encoder")
    config = RobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=20,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = RobertaModel(config, add_pooling_layer=False).eval()
    offset = tokenizer.pad_token_id + 1
    loaded = encoders.Encoder("roberta", model, tokenizer)
    text = ["joke " * 40]
    with pytest.raises(InputError, match=rf"max_tokens: {21 - offset} is over the {20 - offset} "):
        encode(text, loaded, max_tokens=21 - offset, cache_dir=tmp_path)
    found = encode(text, loaded, max_tokens=20 - offset, cache_dir=tmp_path)
    assert np.isfinite(found).all()
