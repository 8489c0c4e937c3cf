# SPDX-License-Identifier: Apache-2.0
"""Which config is chosen, and what is said of files that cannot be used."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helion_kernels import OPS, config_file, select
from helion_kernels.qwen3 import MODELS, dims_of

GPU = "NVIDIA H100 80GB HBM3"
OP = OPS["scaled_mm"]
DIMS = OP.dims(6144, 4096)


def config(m=16, n=64, part=65536, **more):
    return {"block_sizes": [m, n, part], "num_warps": 4, "num_stages": 3, **more}


def entry(upto, config, n=6144, k=4096):
    return {"dims": {"n": n, "k": k}, "upto": upto, "config": config, "us": 1.0}


@pytest.fixture
def folders(tmp_path, monkeypatch, no_plans):
    """Writes entries, or text, to the user's or the shipped folder; returns the file."""
    monkeypatch.setenv("HELION_KERNELS_CONFIG_DIR", str(tmp_path / "user"))
    monkeypatch.setattr(select, "SHIPPED", tmp_path / "shipped")

    def write(which, content, op=OP, gpu=GPU):
        path = tmp_path / which / select.slug(gpu) / f"{op.name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(
                content
                if isinstance(content, str)
                else json.dumps({"provenance": {}, "entries": content})
            )
        return path

    return write


def choose(dims=DIMS, most=8192, stock=(), op=OP, gpu=GPU):
    return select.choose(op, dims, most, gpu, frozenset(stock))


def test_slug_names_the_gpu_without_memory_and_form_factor():
    names = ("NVIDIA H100 80GB HBM3", "NVIDIA H100 PCIe", "NVIDIA H100-SXM5-80GB")
    assert {select.slug(name) for name in names} == {"nvidia_h100"}
    assert select.slug("NVIDIA H200") == "nvidia_h200"


def test_default_where_nothing_is_tuned(folders):
    choices = choose()
    assert {c.source for c in choices} == {"default"}
    assert choices[-1].upto == 8192
    assert choices[0].config == OP.default_config(DIMS, 16)


def test_exact(folders):
    folders("shipped", [entry(16, config()), entry(8192, config(128))])
    assert [(c.source, c.upto) for c in choose()] == [("exact", 16), ("exact", 8192)]


def test_neighbours_of_one_config_share_a_bucket(folders):
    folders("shipped", [entry(u, config()) for u in (1, 16, 64)] + [entry(256, config(64))])
    assert [c.upto for c in choose(most=256)] == [64, 256]


def test_order_of_entries_does_not_matter(folders):
    folders("shipped", [entry(8192, config(128)), entry(16, config())])
    assert [c.upto for c in choose()] == [16, 8192]


def test_last_bucket_reaches_to_max_num_tokens_and_no_bucket_lies_beyond(folders):
    folders("shipped", [entry(16, config(16)), entry(64, config(64)), entry(512, config(128))])
    assert choose(most=8192)[-1].upto == 8192
    assert [c.upto for c in choose(most=40)] == [16, 64]


def test_a_config_that_splits_never_meets_more_tokens_than_it_has_room_for(folders):
    folders("shipped", [entry(64, config(part=1024))])
    *_, split, rest = choose(most=64)
    assert (split.upto, split.config["block_sizes"][2]) == (64, 1024)
    assert (rest.upto, rest.source) == (65, "default")
    assert rest.config["block_sizes"][2] > 4096
    assert choose(most=8192)[0].upto == 64
    folders("shipped", [entry(128, config(part=1024))])
    config_file.load.cache_clear()
    with pytest.raises(select.ConfigError, match="cannot serve 128 tokens"):
        choose(most=64)


def test_a_config_that_splits_is_not_lent_to_sizes_that_it_has_no_room_for(folders):
    dims, larger = OP.dims(40000, 4096), OP.dims(79000, 8192)
    folders("shipped", [entry(20, config(part=1024), n=40000)])
    assert choose(dims, most=20)[0].config == config(part=1024)
    assert not OP.serves(larger, config(part=1024), 20)
    lent = choose(larger, most=20)[0]
    assert lent.source == "default"
    assert "no room for these sizes" in lent.reason
    assert OP.serves(larger, lent.config, 20)


def test_nearest_dims_within_a_factor_of_two(folders):
    folders("shipped", [entry(64, config(), n=4096), entry(64, config(64), n=9000)])
    (choice,) = choose(most=64)
    assert choice.source == "nearest"
    assert choice.config == config(64)
    assert "9000" in choice.reason
    assert choose(OP.dims(1024, 4096))[0].source == "default"


def test_a_flag_that_differs_is_never_near(folders):
    op = OPS["rms_norm_dynamic_per_token_quant"]
    row = {
        "dims": {"hidden_size": 4096, "residual": True},
        "upto": 64,
        "config": {"block_sizes": [1], "reduction_loops": [None]},
    }
    folders("shipped", [row], op)
    assert choose(op.dims(4096, True), op=op)[0].source == "exact"
    assert choose(op.dims(4096, False), op=op)[0].source == "default"


def test_the_users_configs_come_first(folders):
    folders("shipped", [entry(64, config(16)), entry(64, config(16), n=1024)])
    folders("user", [entry(64, config(64))])
    assert choose()[0].config == config(64)
    assert choose(OP.dims(1024, 4096))[0].config == config(16)


def test_what_was_measured_for_many_tokens_leaves_few_to_others(folders):
    folders("user", [entry(64, config(64)) | {"tokens": [64]}, entry(8192, config(128))])
    folders("shipped", [entry(16, config()), entry(8192, config(32))])
    found = [(c.upto, c.config["block_sizes"][0]) for c in choose()]
    assert found == [(16, 16), (32, 32), (64, 64), (8192, 128)]


def test_it_serves_them_where_no_other_was_measured(folders):
    folders("user", [entry(64, config(64)) | {"tokens": [64]}, entry(8192, config(128))])
    assert [c.upto for c in choose()] == [64, 8192]
    folders("shipped", [entry(8, config()), entry(8192, config(32)) | {"tokens": [128]}])
    config_file.load.cache_clear()
    assert [c.upto for c in choose()] == [8, 64, 8192]


def test_stock_where_there_is_one(folders):
    folders("shipped", [entry(64, "stock"), entry(8192, config(128))])
    with_stock, without = choose(stock=[OP.name]), choose()
    assert with_stock[0].config is None
    assert with_stock[0].key == "stock"
    assert "stock" in with_stock[0].reason
    assert without[0].config == OP.default_config(DIMS, 16)
    assert [c.source for c in without if c.upto <= 64] == ["default"] * len(without[:-1])
    assert "stock" in without[0].reason
    assert without[-1].config == config(128)


def test_what_is_tuned_for_few_tokens_does_not_serve_many(folders):
    """A tuning that was cut short: the next best source serves what is above."""
    folders("user", [entry(16, config(16))])
    folders("shipped", [entry(64, config(64)), entry(512, config(128))])
    choices = choose()
    assert [(c.source, c.upto) for c in choices[:3]] == [
        ("exact", 16),
        ("exact", 64),
        ("exact", 512),
    ]
    assert choices[0].config == config(16)
    assert choices[-1].source == "default"
    assert "512" in choices[-1].reason
    assert [c.source for c in choose(most=512)] == ["exact"] * 3
    folders("shipped", [entry(select.SATURATED, config(128))])
    config_file.load.cache_clear()
    assert {c.source for c in choose(most=1 << 20)} == {"exact"}


def test_the_nearest_gpu_that_configs_fit(folders):
    folders("shipped", [entry(8192, config(64))], gpu="NVIDIA H100 80GB HBM3")
    folders("shipped", [entry(8192, config(16))], gpu="NVIDIA L4")
    folders("shipped", [entry(8192, config(128))], gpu="NVIDIA B200")
    for gpu, m in (("NVIDIA H200", 64), ("NVIDIA GB200", 128), ("NVIDIA L40S", 16)):
        (choice,) = choose(gpu=gpu)
        assert choice.source == "related"
        assert choice.config == config(m)
        assert "the nearest GPU with configs" in choice.reason
    assert "nvidia_h100" in choose(gpu="NVIDIA H200")[0].reason
    assert {c.source for c in choose(gpu="NVIDIA A100-SXM4-80GB")} == {"default"}


def test_own_configs_before_those_of_another_gpu(folders):
    folders("shipped", [entry(8192, config(64))])
    folders("user", [entry(64, config(16))], gpu="NVIDIA H200")
    choices = choose(gpu="NVIDIA H200")
    assert [(c.source, c.upto) for c in choices] == [("exact", 64), ("related", 8192)]
    assert choices[1].config == config(64)


def test_these_sizes_on_another_gpu_before_like_sizes_on_this_one(folders):
    """And each of the related GPUs is asked for them, not the nearest alone."""
    folders("shipped", [entry(64, config(64))], gpu="NVIDIA H100 80GB HBM3")
    folders("shipped", [entry(8192, config(16), n=5000)], gpu="NVIDIA H200")
    for gpu in ("NVIDIA H200", "NVIDIA B200"):
        exact, like = choose(gpu=gpu)
        assert (exact.config, exact.upto, exact.source) == (config(64), 64, "related")
        assert exact.reason == "tuned on nvidia_h100, the nearest GPU with configs"
        assert (like.config, like.source) == (config(16), "nearest")
        assert "5000" in like.reason


DAMAGED = {
    "not JSON": "{",
    "not UTF-8": b"\xff\xfe\x00",
    "empty": "",
    "a list": "[]",
    "no entries": "{}",
    "entries are text": '{"entries": "abc"}',
    "no dims": [{"upto": 1, "config": config()}],
    "dims of another op": [{"dims": {"hidden_size": 4096}, "upto": 1, "config": config()}],
    "one dim too many": [{"dims": {"n": 1, "k": 1, "m": 1}, "upto": 1, "config": config()}],
    "dims are text": [entry(1, config(), n="6144")],
    "dims are zero": [entry(1, config(), n=0)],
    "upto is text": [entry("many", config())],
    "upto is zero": [entry(0, config())],
    "config is other text": [entry(1, "fast")],
    "unknown key": [entry(1, config(blocksize=3))],
    "too few block sizes": [entry(1, {"block_sizes": [16, 16]})],
    "block sizes are a number": [entry(1, {"block_sizes": 16})],
    "tokens are a number": [entry(1, config()) | {"tokens": 1}],
    "no tokens": [entry(1, config()) | {"tokens": []}],
    "tokens are text": [entry(1, config()) | {"tokens": ["1"]}],
}


@pytest.mark.parametrize("damage", DAMAGED)
@pytest.mark.parametrize("which", ["user", "shipped"])
def test_a_file_that_cannot_be_used_is_named_with_the_mend(folders, damage, which):
    path = folders(which, DAMAGED[damage])
    with pytest.raises(select.ConfigError) as caught:
        choose()
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "remove" in message
    assert "\n" not in message


def test_the_unknown_key_is_named(folders):
    folders("user", DAMAGED["unknown key"])
    with pytest.raises(select.ConfigError, match="blocksize"):
        choose()


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 9000), st.sampled_from([16, 32, 64])), min_size=1, max_size=8
    ),
    st.integers(1, 9000),
)
def test_every_num_tokens_gets_the_entry_that_serves_it(entries, most):
    """Merging changes nothing: the smallest upto that is at least num_tokens decides."""
    unique = dict(entries)
    found = [select.Choice("exact", config(m), u, "") for u, m in unique.items()]
    merged = select._merge(found, most)
    assert merged[-1].upto >= most
    assert [c.upto for c in merged] == sorted({c.upto for c in merged})
    for n in {1, most, *(min(u, most) for u in unique), *(min(u + 1, most) for u in unique)}:
        serves = [u for u in sorted(unique) if u >= n] or [max(unique)]
        got = next(c for c in merged if c.upto >= n)
        assert got.config == config(unique[serves[0]])


@pytest.mark.parametrize("name", OPS)
def test_shipped_configs_can_be_read(name, no_plans, monkeypatch):
    monkeypatch.delenv("HELION_KERNELS_CONFIG_DIR", raising=False)
    op = OPS[name]
    for model in MODELS.values():
        for dims in dims_of(model, name):
            assert select.choose(op, op.dims(*dims), 8192, GPU)
