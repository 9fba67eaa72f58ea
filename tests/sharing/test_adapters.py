"""The formulas of each adapter: block affine updates, pools of shards, Kronecker products, hypernetworks, tasks."""

import copy

import pytest
import torch
from torch import nn

peft = pytest.importorskip("peft")

from ponita import Ponita  # noqa: E402
from ponita.models import Potential  # noqa: E402
from ponita.sharing.adapters import BoneConfig, BottleneckConfig, MoSConfig, adapter_report, task_scope  # noqa: E402
from ponita.sharing.adapters.bone import GROUPINGS, BoneSource  # noqa: E402
from ponita.sharing.adapters.bottleneck_sources import PHMLinear  # noqa: E402
from ponita.sharing.adapters.counts import houlsby_count, hyper_count, lora_count, phm_count  # noqa: E402
from ponita.sharing.adapters.shards import MoSSource, Pool, Ranks  # noqa: E402
from ponita.sharing.adapters.sites import Site  # noqa: E402

POS = torch.tensor([[0.0, 0, 0], [0.9, 0.1, 0.2], [-0.2, 1.1, 0.1], [0.3, -0.4, 1.2]], dtype=torch.float64)
NUMBERS = torch.tensor([8, 1, 1, 6])


def potential(layers: int = 2) -> Potential:
    torch.manual_seed(3)
    sizes = {"hidden_channels": 8, "basis_channels": 8, "num_orientations": 6, "widening": 2}
    return Potential(Ponita(3, num_layers=layers, cutoff=3.0, **sizes), [1, 6, 8]).double().eval()


def adapted(config: peft.PeftConfig, layers: int = 2) -> peft.PeftModel:
    torch.manual_seed(4)
    model = peft.get_peft_model(potential(layers), config).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.2 * torch.randn(parameter.shape, generator=generator).to(parameter)
    return model


def site(name: str, inputs: int, outputs: int) -> Site:
    return Site(name, inputs, outputs, torch.float32, torch.device("cpu"))


@pytest.mark.parametrize("grouping", GROUPINGS)
def test_block_affine_updates_are_those_of_a_loop_over_blocks(grouping):
    r, inputs, outputs = 3, 12, 6
    source = BoneSource([site("a.0.b", inputs, outputs)], r, grouping)
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.normal_()
    weight = torch.randn(outputs, inputs)
    expected = torch.zeros_like(weight)
    offsets = source.offsets[0]
    factors = source.factors[0] if grouping == "ab" else offsets
    for a in range(outputs // r):
        for b in range(inputs // r):
            k = {"col": a, "row": b, "free": 0, "ab": b}[grouping]
            block = (slice(a * r, (a + 1) * r), slice(b * r, (b + 1) * r))
            expected[block] = weight[block] @ factors[k] + offsets[k]
    torch.testing.assert_close(source.delta("a.0.b", weight), expected)


def test_our_columns_are_the_bat_of_peft():
    ours, theirs = nn.Linear(12, 8), None
    theirs = copy.deepcopy(ours)
    box = nn.ModuleDict({"linear": ours}), nn.ModuleDict({"linear": theirs})
    a = peft.get_peft_model(box[0], BoneConfig(r=4, grouping="col", target_modules=["linear"]))
    b = peft.get_peft_model(box[1], peft.MissConfig(r=4, init_weights="bat", target_modules=["linear"]))
    blocks = torch.randn(2, 4, 4)
    with torch.no_grad():
        next(p for p in a.parameters() if p.requires_grad).copy_(blocks)
        next(p for p in b.parameters() if p.requires_grad).copy_(blocks)
    x = torch.randn(5, 12)
    torch.testing.assert_close(a.base_model.model["linear"](x), b.base_model.model["linear"](x))


def test_the_published_tiling_of_miss():
    """dW[:, j] = D[j mod r], zero-padded where r does not divide the inputs."""
    linear = nn.ModuleDict({"linear": nn.Linear(14, 6, bias=False)})
    model = peft.get_peft_model(linear, peft.MissConfig(r=4, target_modules=["linear"]))
    block = next(p for p in model.parameters() if p.requires_grad)
    with torch.no_grad():
        block.normal_()
    layer, x = model.base_model.model["linear"], torch.randn(3, 14)
    update = torch.stack([block[j % 4] for j in range(14)], dim=1)
    torch.testing.assert_close(layer(x), x @ (layer.base_layer.weight + update).T)


def test_shards_are_put_together_as_published():
    """Row j of a factor is the concatenation of its l shards."""
    pool = Pool(8, 3, Ranks(3, 2, 1), 4, torch.Generator().manual_seed(0))
    with torch.no_grad():
        pool.rows.normal_()
    index = pool.index[1].long()
    interleaved = torch.cat([pool.rows[index][i::4] for i in range(4)], 1)
    torch.testing.assert_close(pool.vectors(1), interleaved)


def test_private_shards_are_used_by_one_layer_and_public_ones_by_several():
    layers, ranks, shards = 4, Ranks(5, 3, 1), 2
    pool = Pool(8, layers, ranks, shards, torch.Generator().manual_seed(0))
    public = (ranks.equivalent - ranks.private) * layers * shards
    uses = torch.bincount(pool.index.flatten().long(), minlength=pool.rows.shape[0])
    assert (uses[public:] == 1).all() and uses[:public].max() > 1
    assert all(len(set(row.tolist())) == ranks.r * shards for row in pool.index)


def test_factors_are_drawn_apart_for_inputs_and_outputs():
    sites = [site(f"blocks.{k}.linear", 8, 8) for k in range(4)]
    source = MoSSource(sites, (3, 2, 0), 2, 4.0, 0, "role")
    assert not torch.equal(source.down[0].index, source.up[0].index)


def test_disjoint_shards_are_lora_and_pooling_everything_is_pure_sharing():
    sites = [site(f"blocks.{k}.linear", 8, 6) for k in range(3)]
    lora = MoSSource(sites, (2, 2, 2), 1, 2.0, 0, "role")
    used = torch.cat([lora.down[0].index[k] for k in range(3)])
    assert sorted(used.tolist()) == list(range(6))
    sharing = MoSSource(sites, (6, 2, 0), 1, 6.0, 0, "role")
    rows = [set(sharing.down[0].index[k].tolist()) for k in range(3)]
    assert rows[0] == rows[1] == rows[2] == set(range(6))


def test_an_update_has_its_rank_and_its_scale():
    sites = [site(f"blocks.{k}.linear", 16, 16) for k in range(3)]
    source = MoSSource(sites, (3, 2, 1), 2, 6.0, 0, "role")
    with torch.no_grad():
        source.up[0].rows.normal_()
    name = sites[1].name
    delta = source.delta(name, torch.zeros(16, 16))
    assert torch.linalg.matrix_rank(delta) == 3
    down, up = source.factors(name)
    torch.testing.assert_close(delta, 2.0 * up.T @ down)


def test_public_shards_are_trained_by_several_layers_and_private_ones_by_one():
    sites = [site(f"blocks.{k}.linear", 8, 8) for k in range(2)]
    source = MoSSource(sites, (3, 2, 1), 2, 4.0, 0, "role")
    with torch.no_grad():
        source.up[0].rows.normal_()
    source.delta(sites[0].name, torch.zeros(8, 8)).square().sum().backward()
    moved = source.down[0].rows.grad.abs().sum(1) > 0
    other = source.down[0].index[1].long()
    public = (2 - 1) * 2 * 2
    assert moved[other[other < public]].any() and not moved[other[other >= public]].any()


@pytest.mark.parametrize(("e", "count"), [(2, 4_997_120), (8, 19_988_480)])
def test_counts_of_llama_7b(e, count):
    """32 layers; q, k, v, o of 4096 to 4096, gate and up of 4096 to 11008, down of 11008 to 4096."""
    shapes = [(4096, 4096)] * 4 + [(4096, 11008)] * 2 + [(11008, 4096)]
    assert 32 * lora_count(shapes, e) == count
    assert 32 * lora_count(shapes, 64) == 159_907_840
    thirteen = [(5120, 5120)] * 4 + [(5120, 13824)] * 2 + [(13824, 5120)]
    assert 40 * lora_count(thirteen, 2) == 7_823_360


@pytest.mark.parametrize("pool_by", ["role", "shape", "dim"])
def test_pools_hold_what_lora_of_the_equivalent_rank_would(pool_by):
    model = adapted(MoSConfig(r=3, equiv_rank=2, pool_by=pool_by))
    shapes = [(8, 8), (8, 8), (8, 16), (16, 8)]
    assert adapter_report(model).trainable == 2 * lora_count(shapes, 2)
    source = model.base_model.sources["default"]
    assert len(source.down) == {"role": 4, "shape": 3, "dim": 2}[pool_by]


@pytest.mark.parametrize("rank", [None, 2])
def test_phm_maps_are_sums_of_kronecker_products(rank):
    layer = PHMLinear(12, 8, 4, rank, None, zero=False)
    products = layer.factors[0] if rank is None else layer.factors[0] @ layer.factors[1]
    expected = sum(torch.kron(layer.rule[i], products[i]) for i in range(4))
    torch.testing.assert_close(layer.matrix(), expected)
    x = torch.randn(3, 12)
    torch.testing.assert_close(layer(x), x @ expected + layer.bias)
    assert sum(p.numel() for p in layer.parameters()) == phm_count(12, 8, 4, rank)


NORMS = 2 * 2 * 8  # of two blocks of 8 channels
TASKS = ["a", "b", "c"]


@pytest.mark.parametrize("share", ["all", "none", "up", "down"])
def test_policies_have_as_many_numbers_as_their_formula(share):
    config = BottleneckConfig(reduction_factor=4, tasks=TASKS, share=share)
    assert adapter_report(adapted(config)).trainable == houlsby_count(8, 2, 4, 3, share) + NORMS


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("rank", [None, 1])
def test_compacters_have_as_many_numbers_as_their_formula(shared, rank):
    config = BottleneckConfig(reduction_factor=2, source="phm", phm_n=2, phm_rank=rank, phm_shared_rule=shared)
    of_site = phm_count(8, 4, 2, rank, shared) + phm_count(4, 8, 2, rank, shared)
    assert adapter_report(adapted(config)).trainable == 4 * of_site + (8 if shared else 0) + NORMS


@pytest.mark.parametrize("plus", [True, False])
def test_hyperformers_have_as_many_numbers_as_their_formula(plus):
    sizes = {"task_dim": 4, "hyper_hidden": 6, "hyper_proj": 3}
    config = BottleneckConfig(reduction_factor=4, source="hyper", tasks=TASKS, hyper_plus=plus, **sizes)
    expected = hyper_count(8, 2, layers=2, positions=2, sizes=(4, 6, 3), plus=plus, tasks=3)
    assert adapter_report(adapted(config)).trainable == expected + NORMS


def percent(added: int, others: int) -> float:
    """Of BART-base with a visual embedding, what trains: what was added, what is unfrozen, and that embedding."""
    bart, visual = 139_420_416, 1_582_848
    return 100 * (added + others + visual) / (bart + visual + added)


def test_the_published_shares_of_parameters_follow_from_the_formulas():
    """VL-Adapter, tables 1 to 3: 30 sites of 768 channels, 4 tasks, LayerNorms 49,152, biases 125,952."""
    norms, sites, hidden = 49_152, 30, 96
    found = {
        "single": percent(houlsby_count(768, hidden, sites), norms),
        "half-shared": percent(houlsby_count(768, hidden, sites, 4, "up"), norms),
        "multiple": percent(houlsby_count(768, hidden, sites, 4, "none"), norms),
    }
    halves = [hyper_count(768, hidden, 6, positions, (512, 128, 8), plus=False) for positions in (2, 3)]
    found["hyperformer"] = percent(sum(halves) + 4 * 512, norms)
    compacter = sites * (phm_count(768, hidden, 2) + phm_count(hidden, 768, 2))
    found |= {"compacter": percent(compacter, norms), "compacters": percent(4 * compacter, norms)}
    lora = lora_count([(768, 768)] * 36, 128)
    found |= {"lora": percent(lora, 125_952), "loras": percent(4 * lora, 125_952)}
    prompt = 40 * 768 + (768 * 800 + 800) + (800 * 768 + 768)
    found |= {"prompt": percent(prompt, 0), "prompts": percent(4 * prompt, 0)}
    published = {"single": 4.18, "half-shared": 8.36, "multiple": 12.23, "hyperformer": 5.79, "compacter": 2.70}
    published |= {"compacters": 7.05, "lora": 5.93, "loras": 17.73, "prompt": 1.99, "prompts": 4.53}
    assert {name: int(100 * value) / 100 for name, value in found.items()} == published
    video, bart = 512 * 768 + 768 + 2 * 768, 139_420_416
    added = houlsby_count(768, hidden, sites)
    assert round(100 * (added + norms + video) / (bart + video + added), 2) == 3.39


def outputs(model: nn.Module) -> dict[str, torch.Tensor]:
    found = {}
    for task in TASKS:
        with task_scope(model, task):
            found[task] = model(POS, NUMBERS)
    return found


@pytest.mark.parametrize(
    ("share", "moved"), [("none", {"a"}), ("up", {"a"}), ("down", set(TASKS)), ("all", set(TASKS))]
)
def test_the_weights_of_a_down_map_move_the_tasks_that_have_it(share, moved):
    model = adapted(BottleneckConfig(reduction_factor=4, tasks=TASKS, share=share))
    before = outputs(model)
    with torch.no_grad():
        model.base_model.sources["default"].down[1][0].weight += 0.5
    after = outputs(model)
    assert {task for task in TASKS if not torch.equal(before[task], after[task])} == moved


@pytest.mark.parametrize(
    ("share", "moved"), [("none", {"a"}), ("down", {"a"}), ("up", set(TASKS)), ("all", set(TASKS))]
)
def test_the_weights_of_an_up_map_move_the_tasks_that_have_it(share, moved):
    model = adapted(BottleneckConfig(reduction_factor=4, tasks=TASKS, share=share))
    before = outputs(model)
    with torch.no_grad():
        model.base_model.sources["default"].up[1][0].weight += 0.5
    after = outputs(model)
    assert {task for task in TASKS if not torch.equal(before[task], after[task])} == moved


@pytest.mark.parametrize("source", ["own", "phm", "hyper"])
def test_a_vector_of_the_task_starts_at_zero_and_tells_tasks_apart(source):
    config = BottleneckConfig(
        reduction_factor=2, source=source, phm_n=2, tasks=TASKS, task_vector=True, unfreeze_norms=False
    )
    model = peft.get_peft_model(potential(), config).eval()
    plain = potential()(POS, NUMBERS)
    assert all(torch.equal(value, plain) for value in outputs(model).values())
    vectors = model.base_model.sources["default"].vectors
    assert len(vectors) == 3
    with torch.no_grad():
        vectors[1] += 0.3
    found = outputs(model)
    assert torch.equal(found["a"], plain) and not torch.equal(found["b"], plain)


def test_the_generators_of_a_hyperformer_serve_all_tasks_and_layers():
    model = adapted(BottleneckConfig(reduction_factor=4, source="hyper", tasks=TASKS))
    source = model.base_model.sources["default"]
    before = outputs(model)
    with torch.no_grad():
        source.task_embedding[1] += 0.5
    after = outputs(model)
    assert {task for task in TASKS if not torch.equal(before[task], after[task])} == {"b"}
    assert len(source.generators) == 1 and len(source.layer_embedding) == 2
    plain = adapted(BottleneckConfig(reduction_factor=4, source="hyper", hyper_plus=False))
    assert len(plain.base_model.sources["default"].generators) == 2


def test_only_the_weights_of_the_task_at_hand_are_trained():
    model = adapted(BottleneckConfig(reduction_factor=4, tasks=TASKS, share="none")).train()
    with task_scope(model, "b"):
        model(POS, NUMBERS).sum().backward()
    source = model.base_model.sources["default"]
    grads = [source.down[0][k].weight.grad for k in range(3)]
    assert grads[0] is None and grads[2] is None and grads[1].abs().max() > 0


def test_a_scope_is_left_as_it_was_found():
    model = adapted(BottleneckConfig(tasks=TASKS, share="none", reduction_factor=4))
    with pytest.raises(ValueError, match=r"no task is chosen; run the model in task_scope.*\['a', 'b', 'c'\]"):
        model(POS, NUMBERS)
    with task_scope(model, "a"):
        outer = model(POS, NUMBERS)
        with task_scope(model, "b"):
            assert not torch.equal(model(POS, NUMBERS), outer)
        assert torch.equal(model(POS, NUMBERS), outer)
    with pytest.raises(ValueError, match=r"task 'd' is unknown .* \['a', 'b', 'c'\]"), task_scope(model, "d"):
        pass


def test_dropout_ignores_whole_channels_so_that_rotations_stay_symmetries():
    model = adapted(MoSConfig(r=2, dropout=0.5)).train()
    torch.manual_seed(0)
    first = model(POS, NUMBERS)
    torch.manual_seed(0)
    turned = model(POS @ torch.diag(torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64)), NUMBERS)
    torch.testing.assert_close(turned, first, rtol=0, atol=1e-12)
    assert not torch.equal(model(POS, NUMBERS), first)
    assert torch.equal(model.eval()(POS, NUMBERS), model(POS, NUMBERS))


NETWORKS = {
    "distances": {"space": "R3", "cutoff": 3.0},
    "plane": {"space": "R2xS1", "num_orientations": 8, "cutoff": 3.0, "kernel": "spline"},
    "frames": {"space": "SE3", "num_orientations": 12},
    "edges": {"mode": "cloud"},
    "product": {"separable": False, "num_orientations": 6},
}
KINDS = [MoSConfig(r=2), BoneConfig(r=4), BottleneckConfig(reduction_factor=4)]


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("config", KINDS, ids=lambda config: config.peft_type)
def test_networks_of_every_space_are_adapted(name, config):
    options = {"hidden_channels": 8, "basis_channels": 8, "num_layers": 2, "widening": 2, **NETWORKS[name]}
    torch.manual_seed(0)
    network = Ponita(1, **options).double().eval()
    dim = network.space.dim
    pos, edges = POS[:, :dim], torch.cartesian_prod(torch.arange(4), torch.arange(4)).T
    edges = edges[:, edges[0] != edges[1]]
    inputs = (pos, edges, torch.ones(4, 1, dtype=torch.float64))
    before = network(*inputs)
    model = peft.get_peft_model(network, copy.deepcopy(config)).eval()
    assert torch.equal(model(*inputs).scalars, before.scalars)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1
    changed = model(*inputs)
    assert not torch.equal(changed.scalars, before.scalars)
    assert torch.equal(model.unload()(*inputs).scalars, before.scalars)


REFUSED = {
    "relu": (lambda: BottleneckConfig(nonlinearity="relu"), "two derivatives"),
    "source": (lambda: BottleneckConfig(source="lora"), r"source='lora'; expected one of \['own', 'phm', 'hyper'\]"),
    "share": (lambda: BottleneckConfig(share="half"), r"share='half'"),
    "hyper share": (lambda: BottleneckConfig(source="hyper", share="up"), "one network for all tasks"),
    "tasks": (lambda: BottleneckConfig(tasks=["a", "a"]), "different names"),
    "grouping": (lambda: BoneConfig(grouping="diagonal"), r"grouping='diagonal'; expected one of"),
    "private": (lambda: MoSConfig(private_rank=3), "expected private_rank < equiv_rank"),
    "pool": (lambda: MoSConfig(pool_by="layer"), r"pool_by='layer'"),
    "shards": (lambda: MoSConfig(shards=0), "expected at least 1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_configurations_that_make_no_sense_are_refused(case):
    make, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        make()


UNFIT = {
    "no channel": (BottleneckConfig(reduction_factor=9), "leaves no channel of the 8"),
    "phm_n": (BottleneckConfig(source="phm", phm_n=3, reduction_factor=2), "phm_n=3 does not divide"),
    "phm_rank": (BottleneckConfig(source="phm", phm_n=2, reduction_factor=2, phm_rank=3), "phm_rank=3"),
    "widths": (BottleneckConfig(source="hyper", target_modules=["linear_1", "linear_2"]), r"widths are \[8, 16\]"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_configurations_that_do_not_fit_the_network_are_refused(case):
    config, message = UNFIT[case]
    with pytest.raises(ValueError, match=message):
        peft.get_peft_model(potential(), config)


def test_a_second_adapter_has_tasks_and_weights_of_its_own():
    config = BottleneckConfig(reduction_factor=4, tasks=["a", "b"], share="none")
    model = peft.get_peft_model(potential(), config)
    model.add_adapter("other", BottleneckConfig(reduction_factor=4, tasks=["c", "d"], share="none"))
    model.set_adapter("other")
    with torch.no_grad():
        for number, parameter in enumerate(p for p in model.parameters() if p.requires_grad):
            parameter += 0.01 * (number + 1)
    found = []
    for task in ("c", "d"):
        with task_scope(model, task):
            found.append(model(POS, NUMBERS))
    assert not torch.equal(*found)
    with task_scope(model, "a"), pytest.raises(ValueError, match=r"no task is chosen.*\['c', 'd'\]"):
        model(POS, NUMBERS)
