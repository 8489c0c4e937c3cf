# SPDX-License-Identifier: Apache-2.0
"""vLLM's side of tuning: where configs go, what they change, and the command line."""

import json
import sys

import pytest

pytest.importorskip("vllm.helion")

from helion_kernels.tune import cli as tuner
from vllm import envs
from vllm.helion import build, cli, switches
from vllm.utils.argparse_utils import FlexibleArgumentParser


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """vLLM's cache directory, empty."""
    monkeypatch.setenv("VLLM_CACHE_ROOT", str(tmp_path))
    for name in ("VLLM_HELION_CONFIG_DIR", "HELION_KERNELS_CONFIG_DIR"):
        monkeypatch.delenv(name, raising=False)
    if hasattr(envs.__getattr__, "cache_clear"):
        envs.__getattr__.cache_clear()
    build.fingerprint.cache_clear()
    yield tmp_path
    build.fingerprint.cache_clear()


def parse(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["vllm", "helion", *arguments])
    parser = FlexibleArgumentParser()
    cli.HelionSubcommand().subparser_init(parser.add_subparsers())
    return parser.parse_args(["helion", *arguments])


def test_the_users_configs_are_part_of_the_cache_keys(cache, monkeypatch):
    # Set first, so that monkeypatch undoes what set_config_dir writes.
    monkeypatch.setenv("HELION_KERNELS_CONFIG_DIR", "")
    monkeypatch.delenv("HELION_KERNELS_CONFIG_DIR")
    switches.set_config_dir()
    without = build.fingerprint()
    path = cache / "helion" / "configs" / "nvidia_h100" / "scaled_mm.json"
    path.parent.mkdir(parents=True)
    fingerprints = {without}
    for entries in ([], [{"upto": 1}]):
        path.write_text(json.dumps({"entries": entries}))
        build.fingerprint.cache_clear()
        fingerprints.add(build.fingerprint())
    assert len(fingerprints) == 3
    # What a tuning remembers for --resume changes nothing.
    path.with_name("journal.jsonl").write_text("{}\n")
    build.fingerprint.cache_clear()
    assert build.fingerprint() in fingerprints - {without}


def test_tune_writes_to_vllms_cache_unless_told_otherwise(cache, monkeypatch):
    args = parse(monkeypatch, "tune", "--model", "8b", "-tp", "2", "--gpu-minutes", "3")
    assert args.out == cache / "helion" / "configs"
    assert (args.model, args.tensor_parallel_size, args.gpu_minutes) == (["8b"], [2], 3.0)
    monkeypatch.setenv("VLLM_HELION_CONFIG_DIR", str(cache / "mine"))
    assert parse(monkeypatch, "tune", "--model", "8b").out == cache / "mine"


def test_tune_without_a_gpu(cache, monkeypatch, capsys):
    monkeypatch.setattr(tuner.torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as caught:
        cli.HelionSubcommand.cmd(parse(monkeypatch, "tune", "--model", "8b"))
    assert caught.value.code == 1
    assert "a GPU is needed" in capsys.readouterr().out


def test_tune_of_a_checkpoint(cache, monkeypatch, capsys):
    config = {"model_type": "qwen3", "hidden_size": 1024, "intermediate_size": 3072,
              "num_attention_heads": 16, "num_key_value_heads": 8,
                  "vocab_size": 151936}  # fmt: skip
    (cache / "config.json").write_text(json.dumps(config))
    args = parse(monkeypatch, "tune", "--model", str(cache), "--tokens", "1", "--dry-run")
    with pytest.raises(SystemExit) as caught:
        cli.tune(args)
    assert caught.value.code == 0
    assert "scaled_mm 4096x1024 at 1" in capsys.readouterr().out


def test_status_names_sizes_of_a_checkpoint(cache):
    assert cli._model(None, None)[0] == "Qwen3-8B"
    (cache / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ValueError, match="llama"):
        cli._model(str(cache), None)
