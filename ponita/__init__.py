"""Position-orientation equivariant networks on point clouds (PONITA, Bekkers et al., ICLR 2024)."""

from __future__ import annotations

from pathlib import Path as _Path

from ponita._version import __version__

# In a source checkout `csrc/` and `tasks/` stand beside this folder; an installed package holds them inside it.
_root = _Path(__file__).resolve().parents[1]
if (_root / "csrc" / "__init__.py").is_file() and (_root / "pyproject.toml").is_file():
    __path__.append(str(_root))

from ponita.geometry import EdgeSet  # noqa: E402
from ponita.models import Output, Ponita, Potential  # noqa: E402

__all__ = ["EdgeSet", "Output", "Ponita", "Potential", "__version__"]
