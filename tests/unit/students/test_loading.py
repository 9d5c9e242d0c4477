"""Students from folders, GGUF files and manifests."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from seedtalk.errors import InputError
from seedtalk.students.loading import (
    Manifest,
    check_precision,
    load_base,
    load_student,
    read_manifest,
    save_whole,
    write_manifest,
)

IDS = torch.tensor([[1, 40, 41, 300, 7]])


def write_gguf(path: Path, model, tokenizer) -> None:
    """Write a toy Llama as GGUF: eight-bit weights, its tokenizer and chat template."""
    import gguf

    config = model.config
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    names = {
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("toy")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    vocabulary = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    control = gguf.TokenType.CONTROL
    writer.add_token_list(vocabulary)
    writer.add_token_types([control if i < 3 else 1 for i in range(len(vocabulary))])
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)
    writer.add_chat_template(tokenizer.chat_template)
    for name, tensor in model.state_dict().items():
        value = tensor.numpy()
        if name == "lm_head.weight":
            continue  # tied
        if name == "model.embed_tokens.weight":
            writer.add_tensor("token_embd.weight", value)
        elif name == "model.norm.weight":
            writer.add_tensor("output_norm.weight", value)
        else:
            _, _, block, *rest, _ = name.split(".")
            new = names[".".join(rest)]
            if new in heads:  # llama.cpp's order of the rotary pairs
                count, rows = heads[new], value.shape[0]
                value = value.reshape(count, 2, rows // count // 2, -1).swapaxes(1, 2)
                value = np.ascontiguousarray(value.reshape(rows, -1))
            if new == "ffn_up":
                kind = gguf.GGMLQuantizationType.Q8_0
                quantised = gguf.quants.quantize(value, kind)
                writer.add_tensor(f"blk.{block}.{new}.weight", quantised, raw_dtype=kind)
            else:
                writer.add_tensor(f"blk.{block}.{new}.weight", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_gguf_is_converted_once_and_says_nothing_of_quantisation(student, tmp_path, monkeypatch):
    model, tokenizer = student
    (tmp_path / "toy").mkdir()
    write_gguf(tmp_path / "toy" / "toy.gguf", model, tokenizer)
    loaded, read = load_base(str(tmp_path / "toy"), cache_dir=tmp_path / "cache")
    torch.testing.assert_close(loaded(IDS).logits, model(IDS).logits, atol=2e-3, rtol=0)
    assert read.chat_template == tokenizer.chat_template
    assert (
        read("The Night Ferry <|im_end|>\n")["input_ids"]
        == (tokenizer("The Night Ferry <|im_end|>\n")["input_ids"])
    )
    (folder,) = [p for p in (tmp_path / "cache" / "students").iterdir() if p.is_dir()]
    config = json.loads((folder / "config.json").read_text())
    assert "quantization_config" not in config
    assert config["tie_word_embeddings"] is True
    monkeypatch.setattr("seedtalk.students.loading._convert", None)  # would raise if called
    again, _ = load_base(str(tmp_path / "toy"), cache_dir=tmp_path / "cache")
    torch.testing.assert_close(again(IDS).logits, loaded(IDS).logits, atol=0, rtol=0)


def test_broken_gguf_leaves_nothing_behind(tmp_path):
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "toy.gguf").write_bytes(b"GGUF" + bytes(40))
    with pytest.raises(InputError, match=r"toy\.gguf: not a readable GGUF"):
        load_base(str(tmp_path / "toy"), cache_dir=tmp_path / "cache")
    left = [p.name for p in (tmp_path / "cache" / "students").iterdir() if p.is_dir()]
    assert left == []


def test_folder_of_neither_kind_names_what_mends_it(tmp_path):
    with pytest.raises(InputError, match="seedtalk fetch quickstart"):
        load_base(str(tmp_path), cache_dir=tmp_path)
    with pytest.raises(InputError, match=r"no such folder.*params\.models"):
        load_base(str(tmp_path / "missing"), cache_dir=tmp_path)


def test_unknown_model_id_is_an_input_error(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="nobody/nothing: no causal language model"):
        load_base("nobody/nothing", cache_dir=tmp_path)


def test_pickled_weights_are_refused(student_folder, tmp_path):
    shutil.copytree(student_folder, tmp_path / "s")
    state = {"x": torch.zeros(2)}
    (tmp_path / "s" / "model.safetensors").unlink()
    torch.save(state, tmp_path / "s" / "pytorch_model.bin")
    with pytest.raises(InputError, match="safetensors"):
        load_base(str(tmp_path / "s"), cache_dir=tmp_path)


def test_models_come_frozen_and_evaluating(student):
    model, tokenizer = student
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    assert tokenizer.pad_token_id is not None


def test_zero_shot_student_is_its_base(student, student_folder, tmp_path):
    write_manifest(tmp_path, Manifest(base=str(student_folder), tuning="zero-shot"))
    model, _ = load_student(tmp_path, cache_dir=tmp_path)
    torch.testing.assert_close(model(IDS).logits, student[0](IDS).logits, atol=0, rtol=0)


def test_whole_student_reads_by_itself(student, tmp_path):
    model, tokenizer = student
    save_whole(model, tokenizer, tmp_path, base="gone")
    again, read = load_student(tmp_path, cache_dir=tmp_path)
    torch.testing.assert_close(again(IDS).logits, model(IDS).logits, atol=0, rtol=0)
    assert read.chat_template == tokenizer.chat_template
    assert "/" not in json.loads((tmp_path / "config.json").read_text()).get("_name_or_path", "")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        ('{"base": "x", "tuning": "some"}', "field 'tuning'"),
        ('{"tuning": "lora"}', "field 'base'"),
        ("not json", "not a JSON document"),
    ],
)
def test_bad_manifest_names_its_field(tmp_path, content, message):
    if content is not None:
        (tmp_path / "student.json").write_text(content)
    with pytest.raises(InputError, match=message):
        read_manifest(tmp_path)


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_missing_weights_are_named(tmp_path, tuning):
    write_manifest(tmp_path, Manifest(base="x", tuning=tuning))
    with pytest.raises(InputError, match=r"model\.safetensors: no such file"):
        load_student(tmp_path, cache_dir=tmp_path)


def test_bf16_only_where_the_device_computes_in_it(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.ops.mkldnn._is_mkldnn_bf16_supported", lambda: False)
    with pytest.raises(InputError, match="cpu does not train in bfloat16"):
        check_precision("bf16")
    check_precision("fp32")
    monkeypatch.setattr("torch.ops.mkldnn._is_mkldnn_bf16_supported", lambda: True)
    check_precision("bf16")


def test_fp16_is_for_gpus(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(InputError, match=r"finetune\.precision: this cpu .* in float16"):
        check_precision("fp16")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    check_precision("fp16")
