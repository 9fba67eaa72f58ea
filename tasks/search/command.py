"""`ponita search`: train a supernet, search it under a limit of latency, and leave ordinary checkpoints."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jsonargparse import ArgumentParser

from ponita.sharing.search import Limit, exhaustive_search, extract_potential
from ponita.tasks import runs
from ponita.tasks.arguments import parse_configured
from ponita.tasks.search.methods.base import Method, Search
from ponita.tasks.search.problem import PotentialProblem
from ponita.tasks.search.report import write_results

DESCRIPTION = """Train all networks of a space in one, and find those that no other beats in accuracy and latency."""
EPILOG = """example:
  ponita search --config search/potential_quick --problem.data.init_args.root DIR --limit_ms 6
  ponita md --ckpt_path runs/search-potential_quick/chosen.ckpt --structure ethanol.xyz --steps 1000 --out md
  ponita fit --config search/finetune --model.init_args.checkpoint runs/search-potential_quick/chosen.ckpt

The run folder holds front.png and front.txt (error and latency of what no other network beats), chosen.ckpt (the best below
--limit_ms, the best of all where there is none) and front/*.ckpt (every network of the front), config.yaml and
candidates.json (all that were evaluated)."""


def main(args: Sequence[str]) -> None:
    """Entry point of `ponita search`.

    Args:
        args: the words after `ponita search`.

    Raises:
        ValueError: for options that do not fit, and for a limit that no network of the space meets.
    """
    parser = _parser()
    config, name = parse_configured(parser, list(args), "search")
    made = parser.instantiate_classes(config)
    torch.set_num_threads(config.threads)
    folder = runs.choose(name, config.run_dir, None, "fit")
    problem, method = made.problem, made.method
    problem.setup()
    if config.limit_ms is not None:
        _check_limit(problem, config.limit_ms)
    folder.mkdir(parents=True, exist_ok=True)
    parser.save(config, folder / "config.yaml", skip_check=True, overwrite=True)
    trained = method.train(problem, config.progress)
    latency = problem.latency(trained.extract)
    limit = None if config.limit_ms is None else Limit(latency, config.limit_ms)
    found = method.search(problem, trained, made.search, limit, config.progress)
    print(
        f"\n{write_results(folder, problem, trained, found, latency, limit)}\n\neverything of this search is in {folder}"
    )


def _check_limit(problem: PotentialProblem, limit_ms: float) -> None:
    """Raise ValueError before the training for a limit that even the smallest network does not meet."""
    task = problem.new_task()
    latency = problem.latency(lambda architecture: extract_potential(task.model, architecture))
    least = problem.space.restrict(**{name: [indices[0]] for name, indices in problem.space.allowed.items()})
    exhaustive_search(least, lambda architecture: 0.0, Limit(latency, limit_ms))


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="ponita search", description=DESCRIPTION, epilog=EPILOG, exit_on_error=False)
    parser.add_argument("--config", action="config", help="file or packaged name")
    parser.add_class_arguments(PotentialProblem, "problem")
    parser.add_subclass_arguments(Method, "method", required=True)
    parser.add_argument("--search", type=Search, default=Search())
    parser.add_argument("--limit_ms", type=float | None, default=None, help="largest latency of the chosen network")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the processor")
    parser.add_argument("--progress", type=bool, default=True, help="show progress bars")
    parser.add_argument("--run_dir", type=str | None, default=None, help="default runs/<config>")
    return parser
