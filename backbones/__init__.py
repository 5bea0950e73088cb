"""Pretrained models behind small typed interfaces; nothing here knows a dataset, a method, or what a method keeps."""

import common.compat  # noqa: F401  (must come before open_clip)
