"""Nothing but the user's own run is talked about: which messages of our dependencies are hidden."""

from __future__ import annotations

import logging
import warnings

from commands.network import ask_the_network_first


def quiet() -> None:
    """Hides Lightning's advertisements and warnings that are not about the user's run."""
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger().addFilter(lambda record: not record.getMessage().startswith("Failed to download weights"))  # we say it
    ask_the_network_first()
    for message in (
        ".*does not have many workers.*",  # the loaders here are sized for the machine
        ".*args parameter is intended to run from within Python.*",  # it is how main() hands them on
        ".*not supported by the model summary.*",
        ".*module\\(s\\) in eval mode.*",  # frozen backbones are
        ".*looks like a TorchScript archive.*",  # OpenAI's, known by its digest
        "The dirpath has changed from.*",  # each run has its folder, also one that goes on
        ".*callbacks used to create the checkpoint need to be provided.*",  # a test does not write any
        ".*smaller than the logging interval.*",
        ".*across ranks is zero.*",  # fit without a benchmark has nothing to validate
        "Dataset has no geotransform.*",  # most pictures are no maps
        ".*LeafSpec.*",  # lightning 2.6 on torch 2.13
        ".*deprecated.*jsonargparse.*",
        ".*`isinstance\\(treespec.*",
    ):
        warnings.filterwarnings("ignore", message)
    warnings.filterwarnings("ignore", category=DeprecationWarning, module="jsonargparse|lightning")
