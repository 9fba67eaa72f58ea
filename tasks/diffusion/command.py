"""`ponita sample`: molecules from a trained generator."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from ponita.data.molecules import Molecules, join
from ponita.tasks.arguments import positive
from ponita.tasks.diffusion.checkpoint import load_generator
from ponita.tasks.diffusion.generate import SAMPLERS, Generator, Sampling, batches, largest_batch
from ponita.tasks.diffusion.inputs import condition_value, draw_sizes, read_fragment
from ponita.tasks.diffusion.verdict import compare_with_qm9
from ponita.tasks.diffusion.writers import FORMATS, Output
from ponita.training.diffusion import Churn

SHOWN = 50  # molecules on a picture or a page
EPILOG = """examples:
  ponita sample --ckpt_path runs/diffusion-quick/checkpoints/best.ckpt --num 100 --out molecules.sdf
  ponita sample --ckpt_path CKPT --num 1000 --out molecules.xyz --sampler dpm --steps 25 --grid grid.png --html page.html
  ponita sample --ckpt_path CKPT --num 1000 --out molecules.sdf --judge data/qm9
  ponita sample --ckpt_path CKPT --num 20 --out gap.sdf --condition gap=0.2 --guidance 2
  ponita sample --ckpt_path CKPT --num 20 --out ring.sdf --fragment ring.xyz --atoms 16

The file grows by whole molecules: Ctrl-C, or the end of the process, leaves one that can be read. The same command makes
the same file."""


def main(args: Sequence[str]) -> None:
    """Entry point of `ponita sample`.

    Args:
        args: the words after `ponita sample`.

    Raises:
        ValueError: for options or checkpoints that do not fit.
        FileNotFoundError: for files that do not exist.
    """
    arguments = _parser().parse_args(args)
    if arguments.judge is not None and not arguments.judge.is_dir():
        raise FileNotFoundError(f"--judge {arguments.judge}: there is no such folder; name one with qm9.npz.")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda, but torch sees no GPU; use --device cpu.")
    sampling = _sampling(arguments)
    maker = load_generator(arguments.ckpt_path, arguments.device)
    value = condition_value(arguments.condition, maker.recipe)
    fragment = None if arguments.fragment is None else read_fragment(arguments.fragment, maker.recipe.code)
    random = torch.Generator().manual_seed(arguments.seed)
    sizes = draw_sizes(maker.recipe, arguments.num, arguments.atoms, fragment, random)
    limit = largest_batch(maker.network)

    def make(part: torch.Tensor, progress: Callable[[int], None]) -> Molecules:
        return maker.sample(part, sampling, random, value, fragment, progress)

    parts = list(batches(sizes, arguments.batch_size, limit))
    with Output(arguments.out) as output:
        made, interrupted = _run(make, parts, output, sampling.steps)
    _report(arguments, maker, made, interrupted)


def _run(
    make: Callable[[torch.Tensor, Callable[[int], None]], Molecules],
    parts: list[torch.Tensor],
    output: Output,
    steps: int,
) -> tuple[Molecules, bool]:
    """All molecules that were made, and whether the user stopped it."""
    made: list[Molecules] = []
    with tqdm(total=len(parts) * steps, unit=" steps") as bar:
        try:
            for part in parts:
                made.append(make(part, lambda step: bar.update(1) and None))
                output.write(made[-1])
                bar.set_postfix_str(f"{sum(map(len, made))} molecules")
        except KeyboardInterrupt:
            return join(made), True
    return join(made), False


def _report(arguments: argparse.Namespace, maker: Generator, made: Molecules, interrupted: bool) -> None:
    if interrupted:
        print("stopped; what was made so far is kept.")
    print(f"{len(made)} molecules are in {arguments.out}")
    if not len(made):
        return
    shown = made.take(range(min(len(made), SHOWN)))
    if arguments.grid is not None:
        from ponita.interfaces.rdkit import draw_grid

        draw_grid(shown, arguments.grid)
        print(f"a picture of the first {len(shown)} is {arguments.grid}")
    if arguments.html is not None:
        from ponita.interfaces.rdkit import write_page

        write_page(shown, arguments.html)
        print(f"a page to turn the first {len(shown)} is {arguments.html}")
    if arguments.judge is not None:
        print(f"\n{compare_with_qm9(made, arguments.judge, max(maker.recipe.sizes.counts), arguments.out)}")
        print(f"\nbond lengths and angles are drawn in {arguments.out.with_suffix('.png')}")


def _sampling(arguments: argparse.Namespace) -> Sampling:
    return Sampling(
        arguments.sampler,
        arguments.steps,
        arguments.sigma_min,
        arguments.sigma_max,
        churn=Churn(arguments.churn),
        guidance=arguments.guidance,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ponita sample", description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = Sampling()
    parser.add_argument("--ckpt_path", type=Path, required=True, help="checkpoint of a diffusion run")
    parser.add_argument("--num", type=positive, default=100, help="molecules to make; default 100")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help=f"file to write: {', '.join(FORMATS)}")
    parser.add_argument("--sampler", default=default.sampler, help=f"{', '.join(SAMPLERS)}; default {default.sampler}")
    parser.add_argument("--steps", type=positive, default=default.steps, help=f"noise levels; default {default.steps}")
    parser.add_argument("--sigma_min", type=float, default=default.sigma_min, help="lowest noise level, Å")
    parser.add_argument("--sigma_max", type=float, default=default.sigma_max, help="highest noise level, Å")
    parser.add_argument("--churn", type=float, default=default.churn.amount, help="noise of heun_churn in all steps")
    parser.add_argument("--seed", type=int, default=0, help="default 0")
    parser.add_argument("--batch_size", type=positive, default=100, help="molecules at once, at most; default 100")
    parser.add_argument(
        "--atoms", type=positive, help="atoms of every molecule; as in the training set where not given"
    )
    parser.add_argument(
        "--condition", metavar="NAME=VALUE", help="property to ask for, in the unit of the training labels"
    )
    parser.add_argument("--guidance", type=float, default=1.0, help="how closely to follow it; default 1")
    parser.add_argument(
        "--fragment", type=Path, metavar="FILE", help="atoms that all molecules contain (xyz, sdf, ...)"
    )
    parser.add_argument("--grid", type=Path, metavar="PNG", help=f"draw the first {SHOWN} molecules")
    parser.add_argument(
        "--html", type=Path, metavar="HTML", help=f"a page that shows the first {SHOWN} in 3-D, offline"
    )
    parser.add_argument(
        "--judge",
        type=Path,
        metavar="DIR",
        help="judge them beside the molecules of QM9 in DIR; writes OUT.txt and OUT.png",
    )
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    return parser
