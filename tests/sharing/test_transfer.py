"""Adapters learn, on small problems where the answer is known: transfer between Morse clusters, and several tasks at once."""

from statistics import mean

import pytest
import torch
from support.morse import Pairs, clusters, copy_of, force_error, new_potential, pretrained, train

peft = pytest.importorskip("peft")

from ponita.sharing.adapters import (  # noqa: E402
    LINEAR_SITES,
    NORM_SITES,
    BoneConfig,
    BottleneckConfig,
    MoSConfig,
    adapter_report,
    task_scope,
)

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Unsupported layer type"), pytest.mark.timeout(1800)]
SITES = {"target_modules": LINEAR_SITES}
SEEDS = range(3)
METHODS = {
    "LoRA r2": lambda: peft.LoraConfig(r=2, lora_alpha=2, **SITES),
    "MiSS r4": lambda: peft.MissConfig(r=4, **SITES),
    "BAT r4": lambda: peft.MissConfig(r=4, init_weights="bat", **SITES),
    "Bone row r4": lambda: BoneConfig(r=4),
    "MoS r3 e2": lambda: MoSConfig(r=3, equiv_rank=2, alpha=3),
    "MoS e1": lambda: MoSConfig(r=2, equiv_rank=1, private_rank=0, alpha=2),
    "Compacter": lambda: BottleneckConfig(reduction_factor=3, source="phm", phm_n=4),
    "Houlsby": lambda: BottleneckConfig(reduction_factor=4),
}


@pytest.fixture(scope="module")
def base():
    return pretrained()


def adapt(base, config, seed, lr=5e-3):
    torch.manual_seed(seed)
    return peft.get_peft_model(copy_of(base), config)


def test_adapters_transfer_with_a_few_labels(base):
    target = Pairs.drawn(0).shifted(3, 0.35)
    held_out = clusters(target, 200, 99)
    few = [clusters(target, 32, 10 + seed) for seed in SEEDS]

    def fine_tuned(config, lr):
        models = [train(adapt(base, config(), seed), [few[seed]], 200, lr, seed) for seed in SEEDS]
        return mean(force_error(model, held_out) for model in models), adapter_report(models[0])

    def plain(prepare, lr):
        return mean(force_error(train(prepare(seed), [few[seed]], 200, lr, seed), held_out) for seed in SEEDS)

    def readouts(seed):
        model = copy_of(base).requires_grad_(False)
        model.network.readouts.requires_grad_(True)
        return model

    floor = {
        "not adapted": force_error(base, held_out),
        "from scratch": plain(lambda seed: new_potential(seed), 5e-3),
        "read-outs": plain(readouts, 1e-2),
    }
    full = min(plain(lambda seed: copy_of(base), lr) for lr in (1e-3, 3e-3, 5e-3))
    norms, _ = fine_tuned(lambda: peft.LNTuningConfig(target_modules=NORM_SITES), 5e-3)
    found = {name: fine_tuned(config, 5e-3) for name, config in METHODS.items()}
    print(
        {**floor, "LayerNorm": norms, "full": full},
        {name: (error, report.trainable) for name, (error, report) in found.items()},
    )
    for name, (error, report) in found.items():
        assert error < 0.85 * min(floor.values()), name
        assert report.trainable < 0.15 * report.total, name
    for name in ("LoRA r2", "MiSS r4", "BAT r4", "MoS r3 e2"):
        tuned = min(found[name][0], *(fine_tuned(METHODS[name], lr)[0] for lr in (1e-2, 2e-2)))
        assert tuned < 1.25 * full, name
    assert found["MoS e1"][1].trainable == found["LoRA r2"][1].trainable // 2
    assert found["MoS e1"][0] < 1.05 * found["LoRA r2"][0]


TASKS = ["a", "b", "c", "d"]


@pytest.mark.parametrize(("common", "own", "related"), [(0.35, 0.02, True), (0.0, 0.5, False)])
def test_one_adapter_for_all_tasks_wins_where_they_are_related_and_loses_where_they_conflict(
    base, common, own, related
):
    shifted = Pairs.drawn(0).shifted(3, common)
    tasks = [shifted.shifted(20 + number, own) for number in range(4)]
    held_out = [clusters(task, 100, 90 + number) for number, task in enumerate(tasks)]
    errors = {}
    for share in ("all", "none"):
        runs = []
        for seed in (0, 1):
            few = [clusters(task, 12, 100 * seed + number) for number, task in enumerate(tasks)]
            config = BottleneckConfig(reduction_factor=4, tasks=TASKS, share=share, unfreeze_norms=False)
            model = adapt(base, config, seed)
            train(model, few, 240, 5e-3, seed, 12, lambda task, model=model: task_scope(model, TASKS[task]))
            for number, data in enumerate(held_out):
                with task_scope(model, TASKS[number]):
                    runs.append(force_error(model, data))
        errors[share] = mean(runs)
    print("related" if related else "conflicting", errors)
    if related:
        assert errors["all"] < 0.95 * errors["none"]
    else:
        assert errors["all"] > 1.1 * errors["none"]
