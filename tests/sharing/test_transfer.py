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


def adapt(base, config, seed):
    torch.manual_seed(seed)
    return peft.get_peft_model(copy_of(base), config)


def test_adapters_transfer_with_a_few_labels(base):
    target = Pairs.drawn(0).shifted(3, 0.3)
    valid, held_out = clusters(target, 100, 98), clusters(target, 200, 99)
    few = [clusters(target, 12, 10 + seed) for seed in SEEDS]

    def tuned(prepare, rates=(5e-3, 1e-2, 2e-2)):
        """Error of the rate that is best on other data, as every method is given three of them."""

        def trained(rate):
            return [train(prepare(seed), [few[seed]], 150, rate, seed, batch=8) for seed in SEEDS]

        models = min((trained(rate) for rate in rates), key=lambda made: mean(force_error(m, valid) for m in made))
        return mean(force_error(model, held_out) for model in models), models[0]

    def readouts(seed):
        model = copy_of(base).requires_grad_(False)
        model.network.readouts.requires_grad_(True)
        return model

    floor = {
        "not adapted": force_error(base, held_out),
        "from scratch": tuned(new_potential)[0],
        "read-outs": tuned(readouts)[0],
    }
    full, _ = tuned(lambda seed: copy_of(base), (1e-3, 3e-3, 5e-3))
    norms, _ = tuned(lambda seed: adapt(base, peft.LNTuningConfig(target_modules=NORM_SITES), seed))
    found = {name: tuned(lambda seed, config=config: adapt(base, config(), seed)) for name, config in METHODS.items()}
    reports = {name: adapter_report(model) for name, (_, model) in found.items()}
    print(
        {**floor, "LayerNorm": norms, "full": full}, {name: (found[name][0], reports[name].trainable) for name in found}
    )
    for name, report in reports.items():
        assert found[name][0] < 0.85 * min(floor.values()), name
        assert report.trainable < 0.16 * report.total, name
    for name in ("LoRA r2", "MiSS r4", "BAT r4", "MoS r3 e2"):
        assert found[name][0] < 1.25 * full, name
    assert reports["MoS e1"].trainable == reports["LoRA r2"].trainable // 2
    assert found["MoS e1"][0] < 1.05 * found["LoRA r2"][0]


TASKS = ["a", "b", "c", "d"]


@pytest.mark.parametrize(("common", "own", "related"), [(0.3, 0.02, True), (0.0, 0.3, False)])
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
