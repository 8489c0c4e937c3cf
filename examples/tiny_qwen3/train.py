# SPDX-License-Identifier: Apache-2.0
"""Train the tiny Qwen3 from nothing. One GPU: minutes. A CPU: for a trial."""

import argparse
import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import Qwen3Config, Qwen3ForCausalLM

HERE = Path(__file__).resolve().parent
SIZES = {
    "vocab_size": 4096,
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 128,
}
"""6.0 million parameters: 11.9 MB in bf16."""
PEAK, FLOOR, WARM_UP = 3e-3, 1e-4, 0.03
"""Learning rate at its height and at its end, and the share of steps in which it rises."""
DECAY, CLIP = 0.1, 1.0

EPILOG = """\
writes, below --out:
  model.safetensors  the weights in bf16; `export.py --install` takes them from here
  loss.json          the loss curve; loss.png too, where matplotlib is installed
  checkpoint.pt      every --save steps; the same command goes on from it after a kill, and ends
                     with the weights of a run that was not interrupted

examples:
  python examples/tiny_qwen3/corpus.py                # the text, beforehand, with a network
  python examples/tiny_qwen3/train.py --out run       # an H100: 90 seconds
  python examples/tiny_qwen3/train.py --out trial --steps 20 --batch 4 --length 64
"""


def learning_rate(step: int, steps: int) -> float:
    """Linear warm-up, then half a cosine."""
    rise = max(1, round(WARM_UP * steps))
    if step < rise:
        return PEAK * (step + 1) / rise
    return FLOOR + (PEAK - FLOOR) / 2 * (1 + math.cos(math.pi * (step - rise) / (steps - rise)))


def batch(tokens: torch.Tensor, step: int, seed: int, rows: int, length: int) -> torch.Tensor:
    """int64 [rows, length]: cuttings of the text that seed and step alone determine."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    starts = torch.randint(len(tokens) - length + 1, (rows, 1), generator=generator)
    return tokens[starts + torch.arange(length)].long()


def make_model(seed: int) -> Qwen3ForCausalLM:
    torch.manual_seed(seed)
    config = Qwen3Config(
        **SIZES,
        tie_word_embeddings=True,
        max_position_embeddings=4096,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        use_cache=False,
    )
    return Qwen3ForCausalLM(config)


def make_optimizer(model: Qwen3ForCausalLM) -> torch.optim.AdamW:
    """Matrices decay, norms do not."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": DECAY},
        {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=PEAK, betas=(0.9, 0.95), fused=True)


def save_atomically(path: Path, state: dict[str, Any]) -> None:
    torch.save(state, path.with_suffix(".new"))
    os.replace(path.with_suffix(".new"), path)


def plot(curve: list[tuple[int, float]], path: Path) -> None:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print(f"no {path.name}: matplotlib is not installed")
        return
    figure = Figure(figsize=(7, 4))
    axes = figure.subplots()
    axes.plot(*zip(*curve, strict=True))
    axes.set(xlabel="step", ylabel="loss, nats a token", title="tiny Qwen3")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def train(options: argparse.Namespace) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_float32_matmul_precision("high")
    with safe_open(options.data / "tokens.safetensors", "pt") as file:
        tokens, tokenizer = file.get_tensor("tokens").int(), file.metadata()["tokenizer"]
    model = make_model(options.seed).to(device)
    optimizer = make_optimizer(model)
    options.out.mkdir(parents=True, exist_ok=True)
    checkpoint = options.out / "checkpoint.pt"
    settings = {name: getattr(options, name) for name in ("steps", "batch", "length", "seed")}
    settings["tokenizer"] = tokenizer
    first, curve = 0, []
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device)
        if state["settings"] != settings:
            sys.exit(f"train.py: {checkpoint} is of another run: {state['settings']}; delete it")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first, curve = state["step"], state["curve"]
        print(f"going on from step {first}")

    started, losses = time.monotonic(), []
    for step in range(first, options.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, options.steps)
        ids = batch(tokens, step, options.seed, options.batch, options.length).to(device)
        with torch.autocast(device.type, torch.bfloat16):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.detach())  # read below: a read waits for the GPU

        done = step + 1
        if done % options.log == 0 or done == options.steps:
            curve.append((done, float(torch.stack(losses).mean())))
            losses = []
            spent = time.monotonic() - started
            left = spent / (done - first) * (options.steps - done)
            print(
                f"step {done}/{options.steps}  loss {curve[-1][1]:.3f}  "
                f"{(done - first) * ids.numel() / spent:,.0f} tokens/s  {left:.0f} s left",
                flush=True,
            )
        if done % options.save == 0 and done < options.steps:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            state |= {"step": done, "curve": curve, "settings": settings}
            save_atomically(checkpoint, state)

    weights = {name: p.detach().to("cpu", torch.bfloat16) for name, p in model.named_parameters()}
    save_file(weights, options.out / "model.safetensors", {"format": "pt", "tokenizer": tokenizer})
    record = {"settings": settings, "device": device.type, "torch": torch.__version__}
    record["curve"] = curve
    (options.out / "loss.json").write_text(json.dumps(record) + "\n", "utf-8")
    plot(curve, options.out / "loss.png")
    checkpoint.unlink(missing_ok=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=HERE / "data", help="where corpus.py wrote")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--steps", type=int, default=2000, help="default: 2000")
    parser.add_argument("--batch", type=int, default=64, help="rows a step; default: 64")
    parser.add_argument("--length", type=int, default=512, help="tokens a row; default: 512")
    parser.add_argument("--seed", type=int, default=1, help="default: 1")
    parser.add_argument("--log", type=int, default=50, help="steps between lines; default: 50")
    parser.add_argument("--save", type=int, default=500, help="default: 500; a multiple of --log")
    options = parser.parse_args()
    if options.save % options.log:
        parser.error(f"--save {options.save} is no multiple of --log {options.log}")
    train(options)


if __name__ == "__main__":
    main()
