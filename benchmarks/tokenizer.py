# SPDX-License-Identifier: Apache-2.0
"""A tokenizer for checkpoints that have none, such as `benchmarks.checkpoint`'s: a word per token.

Token 7 is the word `t7`; words are separated by a space. Any ids decode to text that encodes to the
same ids, so that random prompts have exactly the length that was asked for.
"""

import json
from pathlib import Path

FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "tokenizer.model")


def missing(model: str) -> bool:
    """Whether model is a folder without a tokenizer. What is no folder is a name: it has one."""
    folder = Path(model)
    return folder.is_dir() and not any((folder / name).exists() for name in FILES)


def write(model: str, out: Path) -> None:
    """Write one into out, of the vocabulary of the checkpoint in folder model."""
    config = json.loads((Path(model) / "config.json").read_text(encoding="utf-8"))
    end = config["eos_token_id"]
    special = {
        "id": end,
        "content": f"t{end}",
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }
    tokenizer = {
        "version": "1.0",
        "added_tokens": [special],
        "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "WordLevel",
            "vocab": {f"t{i}": i for i in range(config["vocab_size"])},
            "unk_token": "t0",
        },
    }
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": f"t{end}"}
    out.mkdir(parents=True, exist_ok=True)
    (out / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    (out / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
