"""Molecules asked for by their HOMO-LUMO gap, and the gaps that another network, trained on real labels, gives them.

    python benchmarks/conditional.py --generator CKPT --judge CKPT [--gaps 0.15 0.20 0.25 0.30 0.35] [--guidance 0 1 2]

The generator is that of `ponita fit --config diffusion/quick --data.init_args.condition gap
--model.init_args.model.init_args.in_channels 13`, the judge that of `ponita fit --config property/quick`. Guidance 0 asks for
nothing. Each cell is of --num molecules, from the same noise; those that are not whole by the table of distances are left out,
since the judge knows real molecules alone. Writes --out (benchmarks/results/conditional.json) and prints a table.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ponita.data.chemistry import table_stability
from ponita.data.molecules import Molecules, join
from ponita.data.units import HARTREE
from ponita.models import PropertyModel, load
from ponita.tasks.bench.record import environment, write
from ponita.tasks.diffusion.checkpoint import load_generator
from ponita.tasks.diffusion.generate import Generator, Sampling, batches
from ponita.tasks.diffusion.inputs import draw_sizes
from ponita.tasks.pictures import format_table

BATCH = 100


def made(generator: Generator, num: int, gap: float | None, guidance: float, steps: int) -> Molecules:
    """Molecules of the sizes of the training set, the same for every gap."""
    random = torch.Generator().manual_seed(0)
    sizes = draw_sizes(generator.recipe, num, None, None, random)
    sampling = Sampling(steps=steps, guidance=guidance if gap is not None else 1.0)
    return join([generator.sample(part, sampling, random, gap) for part in batches(sizes, BATCH)])


def gaps_of(judge: PropertyModel, molecules: Molecules) -> torch.Tensor:
    """[M] Hartree."""
    counts = torch.from_numpy(molecules.counts)
    with torch.no_grad():
        found = judge(
            torch.from_numpy(molecules.positions).float(),
            torch.from_numpy(molecules.numbers).long(),
            batch=torch.repeat_interleave(counts),
            num_graphs=len(molecules),
        )
    return found.scalars[:, 0].double() / HARTREE


def cell(judge: PropertyModel, molecules: Molecules, gap: float | None) -> dict[str, Any]:
    """How many molecules are whole, and their gaps."""
    whole = table_stability(molecules).molecules
    if not whole.any():
        return {"made": len(molecules), "whole": 0}
    gaps = gaps_of(judge, molecules.take(whole.nonzero()[0]))
    found = {"made": len(molecules), "whole": int(whole.sum()), "mean": float(gaps.mean()), "spread": float(gaps.std())}
    return found | ({} if gap is None else {"error": float((gaps - gap).abs().mean())})


def main() -> None:
    """Make, judge, store, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--generator", required=True)
    parser.add_argument("--judge", required=True)
    parser.add_argument("--gaps", nargs="+", type=float, default=[0.15, 0.20, 0.25, 0.30, 0.35], help="Hartree")
    parser.add_argument("--guidance", nargs="+", type=float, default=[0.0, 1.0, 2.0])
    parser.add_argument("--num", type=int, default=200)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "conditional.json")
    arguments = parser.parse_args()
    generator, judge = load_generator(arguments.generator), load(arguments.judge)
    free = cell(judge, made(generator, arguments.num, None, 1.0, arguments.steps), None)
    cells = [{"guidance": 0.0, **free}] if 0.0 in arguments.guidance else []
    asked = [(guidance, gap) for guidance in arguments.guidance if guidance > 0 for gap in arguments.gaps]
    for guidance, gap in tqdm(asked):
        molecules = made(generator, arguments.num, gap, guidance, arguments.steps)
        cells.append({"guidance": guidance, "gap": gap, **cell(judge, molecules, gap)})
    command = "python benchmarks/conditional.py --generator CKPT --judge CKPT"
    write({"command": command, "conditional": cells, **environment(torch.get_num_threads())}, arguments.out)
    rows = [("guidance", "whole", "gap asked for (Ha)", "mean gap (Ha)", "spread", "mean error")]
    for found in cells:
        numbers = (f"{found[key]:.3f}" if key in found else "-" for key in ("gap", "mean", "spread", "error"))
        rows.append((f"{found['guidance']:g}", f"{found['whole']}/{found['made']}", *numbers))
    print(format_table(rows))


if __name__ == "__main__":
    main()
