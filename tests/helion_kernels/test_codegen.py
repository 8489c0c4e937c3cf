# SPDX-License-Identifier: Apache-2.0
"""Properties of the code that the default configs become: Triton for all sizes of Qwen3, machine
code for sm_90 for a subset, both without a GPU.
"""

import importlib
import re

import pytest
import torch
from dims import GEMMS

from helion_kernels import OPS, launch, select
from helion_kernels.aot import cubin
from helion_kernels.aot.target import TARGETS, pretend
from helion_kernels.qwen3 import MODELS, dims_of
from helion_kernels.sample import Random

TARGET = TARGETS["sm_90"]
MOST = 8192
ALL_DIMS = {
    name: list(dict.fromkeys(d for model in MODELS.values() for d in dims_of(model, name)))
    for name in OPS
}
ATTENTION = "fused_qk_norm_rope_paged_attention"
ELEMENTWISE = [name for name in OPS if name not in (*GEMMS, ATTENTION)]


def configs(name, dims):
    """The configs of the op's own rule, one per bucket."""
    op = OPS[name]
    return [c.config for c in select.choose(op, op.dims(*dims), MOST, "some other GPU")]


def generate(name, dims, config):
    op = OPS[name]
    with pretend(TARGET):
        return launch.generate(op, op.dims(*dims), config)


@pytest.mark.parametrize("name", OPS)
def test_all_dims_and_buckets_become_triton(name):
    """One launch each, not cooperative, one Triton variant for every num_tokens."""
    for dims in ALL_DIMS[name]:
        for config in configs(name, dims):
            specialised = generate(name, dims, config)
            source = specialised.kernel.src
            assert re.findall(r"def _helion_(\w+)", source) == [name], dims
            assert not specialised.options.get("launch_cooperative_grid", False), dims
            # None of the grid; those among the threads of a program may be.
            assert "barrier" not in source.replace("tl.debug_barrier()", ""), dims
            symbols = {
                arg
                for arg, value in zip(specialised.kernel.arg_names, specialised.args, strict=False)
                if isinstance(value, torch.SymInt)
            }
            general = {p.name for p in specialised.kernel.params if p.do_not_specialize}
            assert symbols <= general, dims


def specialised_integers(specialised, args):
    """What Triton chooses a variant by, of each integer for which it does: 1, a multiple of 16 or
    neither."""
    pairs = zip(specialised.kernel.params, args, strict=False)
    chosen = {p.name: v for p, v in pairs if isinstance(v, int) and not p.do_not_specialize}
    return {name: "one" if v == 1 else v % 16 == 0 for name, v in chosen.items()}


ATTENTIONS = [(ATTENTION, (8, 2, 128, 16, q, t)) for q in (False, True) for t in (1, 4)]


@pytest.mark.parametrize("num_tokens", [1, 2, 16, 17])
@pytest.mark.parametrize(
    ("name", "dims"), [(name, ALL_DIMS[name][0]) for name in OPS if name != ATTENTION] + ATTENTIONS
)
def test_no_num_tokens_asks_for_another_variant(name, dims, num_tokens):
    """Not even one, for which PyTorch chooses strides of its own."""
    specialised = generate(name, dims, configs(name, dims)[0])
    given = []
    args = OPS[name].kernel_args(*sample_of(name, dims, num_tokens))
    specialised.function(*args, _launcher=lambda kernel, grid, *args, **options: given.extend(args))
    assert specialised_integers(specialised, given) == specialised_integers(
        specialised, specialised.args
    )


def test_a_block_table_may_have_any_width(monkeypatch):
    """It follows from an engine's longest sequence: the first request must not compile."""
    dims = ALL_DIMS[ATTENTION][0]
    attention = importlib.import_module(f"helion_kernels.ops.{ATTENTION}")
    seen = []
    for context in (600, 1024):  # 57 and 96 blocks
        monkeypatch.setattr(attention, "CONTEXT", context)
        specialised = generate(ATTENTION, dims, configs(ATTENTION, dims)[0])
        seen.append(specialised_integers(specialised, specialised.args))
    assert seen[0] == seen[1]


@pytest.mark.parametrize("name", OPS)
def test_what_is_compiled_is_what_a_call_asks_for(name, monkeypatch):
    """Triton's key has the options as text, in their order: others would compile at the launch."""
    dims = ALL_DIMS[name][0]
    specialised = generate(name, dims, configs(name, dims)[0])
    asked = []
    monkeypatch.setattr(
        type(specialised.kernel),
        "run",
        lambda self, *args, grid, warmup, **options: asked.append((warmup, str(options))),
    )
    specialised.compile()
    specialised.function(*OPS[name].kernel_args(*sample_of(name, dims)))
    assert [warmup for warmup, _ in asked] == [True, False]
    assert asked[0][1] == asked[1][1]


def sample_of(name, dims, num_tokens=3):
    op = OPS[name]
    return op.sample(op.dims(*dims), num_tokens, Random("cpu"))


@pytest.mark.parametrize("name", OPS)
def test_num_tokens_is_never_a_constant(name):
    """Code generated for another hint of num_tokens is the same text."""
    from helion_kernels import sample

    dims = ALL_DIMS[name][0]
    (config, *_) = configs(name, dims)
    launch.bind.cache_clear()
    first = generate(name, dims, config).kernel.src
    launch.bind.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sample.Symbolic, "HINT", 37)
        second = generate(name, dims, config).kernel.src
    launch.bind.cache_clear()
    assert first == second


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise_ops_read_a_row_once(name):
    """Held in registers: no loop over the row, no second pass."""
    source = generate(name, ALL_DIMS[name][-1], configs(name, ALL_DIMS[name][-1])[-1]).kernel.src
    assert not re.search(r"^\s*(for|while) ", source, re.MULTILINE)


@pytest.mark.parametrize("name", GEMMS)
def test_each_k_tile_is_summed_from_zero_and_added_in_float32(name):
    """Triton would otherwise fuse `acc + dot` into the tensor core's own short accumulator."""
    for config in configs(name, (6144, 4096)):
        source = generate(name, (6144, 4096), config).kernel.src
        dots = re.findall(r"tl\.dot\((.*)\)", source)
        assert len(dots) == (2 if name == "scaled_mm_blockwise" else 1)
        for dot in dots:
            assert "acc=" not in dot
            assert "out_dtype=tl.float32" in dot


@pytest.mark.parametrize("name", GEMMS)
def test_block_sizes_are_tokens_then_weights_then_parts(name):
    """As gemm.py writes them: Helion lists them in the order in which a kernel makes them."""
    source = generate(name, (6144, 4096), configs(name, (6144, 4096))[0]).kernel.src
    assert "acc = tl.full([_BLOCK_SIZE_1, _BLOCK_SIZE_0], 0.0, tl.float32)" in source
    assert re.search(r"tl\.cdiv\(m, _BLOCK_SIZE_0\)", source)


def test_many_tokens_are_the_tensor_cores_rows_of_block_fp8_and_few_are_its_columns():
    name, dims = "scaled_mm_blockwise", (6144, 4096)
    for config in configs(name, dims):
        source = generate(name, dims, config).kernel.src
        tile = (0, 1) if config["block_sizes"][0] >= 64 else (1, 0)
        shape = ", ".join(f"_BLOCK_SIZE_{i}" for i in tile)
        assert f"acc = tl.full([{shape}], 0.0, tl.float32)" in source


@pytest.mark.parametrize("name", GEMMS)
def test_a_part_that_covers_k_leaves_no_trace_of_splitting(name, compiled):
    op, dims = OPS[name], OPS[name].dims(4096, 4096)
    for part, atomics in ((65536, 0), (1024, 1)):
        config = op.default_config(dims, 16) | {"block_sizes": [16, 64, part]}
        ptx = cubin.compile(op, dims, config, TARGET).ptx
        assert len(re.findall(r"\batom\.", ptx)) == atomics


@pytest.mark.parametrize("name", OPS)
def test_every_kernel_waits_and_lets_the_next_one_in(name, compiled):
    """And is launched so that it may start early."""
    dims = ALL_DIMS[name][0]
    ptx = compiled(name, dims, 0).ptx
    waits = len(re.findall(r"griddepcontrol\.wait", ptx))
    two_loops = name in ("fused_qk_norm_rope", "fused_qk_norm_rope_kv_write")
    assert waits == (2 if two_loops else 1)
    said = len(re.findall(r"griddepcontrol\.launch_dependents", ptx))
    assert said == (2 if name in GEMMS else 1)  # at a GEMM's exit once more, for Helion
    assert generate(name, dims, configs(name, dims)[0]).options["launch_pdl"] is True
    # Nothing is written before the wait.
    assert "st.global" not in ptx[: ptx.index("griddepcontrol.wait")]


@pytest.fixture(scope="module")
def compiled():
    """Machine code by (name, dims, index of the bucket), each compiled once."""
    done = {}

    def get(name, dims, bucket):
        key = name, dims, bucket
        if key not in done:
            op = OPS[name]
            done[key] = cubin.compile(op, op.dims(*dims), configs(name, dims)[bucket], TARGET)
        return done[key]

    return get


SUBSET = [
    (name, dims, bucket)
    for name in OPS
    for dims in {ALL_DIMS[name][0], ALL_DIMS[name][-1]}
    for bucket in (range(len(configs(name, dims))) if name in GEMMS else (0, -1))
]


@pytest.mark.parametrize(("name", "dims", "bucket"), SUBSET)
def test_machine_code(name, dims, bucket, compiled):
    code = compiled(name, dims, bucket)
    assert code.code[:4] == b"\x7fELF"
    assert ".target sm_90a" in code.ptx
    assert code.shared_memory <= TARGET.shared_memory
    (threads,) = re.findall(r"\.reqntid (\d+)", code.ptx)
    assert int(threads) == 32 * code.num_warps
    assert not re.search(r"\.local ", code.ptx)


@pytest.mark.parametrize("dims", [(6144, 4096), (4096, 12288)])
@pytest.mark.parametrize("name", GEMMS)
def test_every_tile_uses_the_float8_tensor_core_and_adds_outside_it(name, dims, compiled):
    for bucket in range(len(configs(name, dims))):
        ptx = compiled(name, dims, bucket).ptx
        products = re.findall(r"wgmma\.mma_async\.\S+\.f32\.e4m3\.e4m3", ptx)
        assert products
        assert "wgmma.mma_async.sync.aligned" in ptx
        block_m, block_n = configs(name, dims)[bucket]["block_sizes"][:2]
        outputs = block_m * block_n // (32 * compiled(name, dims, bucket).num_warps)
        assert float32_sums(ptx) >= outputs


def float32_sums(ptx: str) -> int:
    """Scalar or packed float32 additions and multiply-adds."""
    single = len(re.findall(r"\b(?:add|fma)\.(?:rn\.)?f32\b", ptx))
    packed = len(re.findall(r"\b(?:add|fma)\.(?:rn\.)?f32x2\b", ptx))
    return single + 2 * packed


@pytest.mark.parametrize("name", [n for n in OPS if n.endswith("quant")])
def test_float8_is_rounded_by_hardware_and_saturates(name, compiled):
    ptx = compiled(name, ALL_DIMS[name][-1], -1).ptx
    assert "cvt.rn.satfinite.e4m3x2.f32" in ptx


@pytest.mark.parametrize("dims", ALL_DIMS[ATTENTION])
def test_attention_reads_the_cache_16_bytes_at_a_time(dims, compiled):
    """For which its strides come in such units; and it multiplies in the tensor core."""
    ptx = compiled(ATTENTION, dims, 0).ptx
    copied = [int(size, 16) for size in re.findall(r"cp\.async\.c\w\.\S+ .*?, (0x\w+),", ptx)]
    # A thread's share of a tile, ahead of the loop and in it; the block table goes by its 4 bytes.
    config = configs(ATTENTION, dims)[0]
    tile, threads = config["block_sizes"][2], 32 * config["num_warps"]
    assert set(copied) == {4, 16}
    assert copied.count(16) == 2 * tile * 4 * dims[2] / (16 * threads)
    assert re.search(r"(wgmma\.mma_async|mma)\.sync\S*\.bf16\.bf16", ptx)


def test_an_invalid_config_is_refused():
    import helion

    with pytest.raises(helion.exc.InvalidConfig):
        generate("scaled_mm", (6144, 4096), helion.Config(block_sizes=[16] * 4))


def test_pretending_leaves_no_trace():
    before = torch.cuda.get_device_properties, torch.cuda.current_device
    with pytest.raises(InterruptedError, match=r"9.*0"), pretend(TARGET):
        raise InterruptedError(*torch.cuda.get_device_capability())
    assert (torch.cuda.get_device_properties, torch.cuda.current_device) == before


@pytest.fixture
def process_group(tmp_path):
    store = f"file://{tmp_path}/store"
    torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    launch.bind.cache_clear()
    yield
    torch.distributed.destroy_process_group()
    launch.bind.cache_clear()


@pytest.mark.parametrize("name", OPS)
def test_generated_alike_in_a_process_of_torch_distributed(name, request):
    """As each of vLLM's workers is, where Helion may take every tensor for another rank's."""
    dims = ALL_DIMS[name][0]
    config = configs(name, dims)[0]
    alone = generate(name, dims, config).kernel.src
    request.getfixturevalue("process_group")
    assert generate(name, dims, config).kernel.src == alone


@pytest.mark.parametrize(
    ("name", "dims"),
    [(ATTENTION, dims) for dims in ALL_DIMS[ATTENTION]]
    + [(name, dims) for name in GEMMS for dims in ALL_DIMS[name]],
)
def test_every_part_has_its_place(name, dims):
    """However many configs were generated before: with room for one part traced, all shared it."""
    op = OPS[name]
    launch.bind.cache_clear()
    for num_tokens in (1, 48, 1, 48):
        rule = op.default_config(op.dims(*dims), num_tokens)
        sizes = [2, *rule["block_sizes"][1:]]
        if name in GEMMS:
            sizes = [*rule["block_sizes"][:2], 512]
        source = generate(name, dims, rule | {"block_sizes": sizes}).kernel.src
        accesses = [line for line in source.splitlines() if "(partials +" in line]
        # A GEMM's join counts its parts in Triton of ours.
        placed = re.compile(r"partials_stride_0" + r"|number \* symnode" * (name in GEMMS))
        assert len(accesses) >= 2 and all(placed.search(line) for line in accesses)
