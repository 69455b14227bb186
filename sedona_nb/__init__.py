"""SEDONA and block-local learning: a teaching and reproduction suite.

The notebooks hold the story, this package the machinery. Submodules load when first used, so that
``import sedona_nb`` costs next to nothing; `MODULES` lists them in the order in which data flows.
"""

from importlib import import_module
from types import ModuleType

__version__ = "0.1.0"

MODULES = (
    "profiles",
    "picture_sources",
    "picture_cache",
    "image_folders",
    "stream_names",
    "streamed_pictures",
    "torchvision_sets",
    "digits",
    "data",
    "augmentation",
    "epoch_order",
    "pixels",
    "batches",
    "picture_stream",
    "layered",
    "vgg",
    "resnet",
    "networks",
    "heads",
    "losses",
    "precision",
    "costs",
    "relaxed",
    "bilevel",
    "unroll",
    "lean",
    "adjoint",
    "pitfalls",
    "memory",
    "search_config",
    "search_state",
    "footprint",
    "rehearsal",
    "pace",
    "budget",
    "search",
    "discretization",
    "decoupling",
    "released",
    "blocks",
    "continuous",
    "train_config",
    "imagenet",
    "run_pictures",
    "streamed_run",
    "training",
    "evaluate",
    "messages",
    "block_files",
    "jobs",
    "replicas",
    "meeting",
    "block_share",
    "instructions",
    "block_worker",
    "processes",
    "pipeline",
    "schedule",
    "layer_times",
    "timelines",
    "frontier",
    "provenance",
    "records",
    "runs",
    "methods",
    "paper",
    "tables",
    "drawing",
    "diagrams",
    "charts",
    "speed_charts",
    "viz",
    "widgets",
    "places",
    "comparisons",
    "seeds",
    "rates",
    "devices",
    "peaks",
    "progress",
    "errors",
    "atomic",
    "notebook_process",
    "execute",
)


def __getattr__(name: str) -> ModuleType:
    if name in MODULES:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"{__name__} has no module {name!r}; it has {', '.join(MODULES)}")


def __dir__() -> list[str]:
    return sorted([*globals(), *MODULES])
