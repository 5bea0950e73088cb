"""Without a network, downloads from the Hugging Face hub fail at once, as with ``HF_HUB_OFFLINE=1``, and not after a minute."""

from __future__ import annotations

import socket
import urllib.request
from functools import cache
from urllib.parse import urlsplit

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled
from huggingface_hub.utils import _http

SECONDS = 3.0
OFFLINE = (LocalEntryNotFoundError, OfflineModeIsEnabled)


@cache
def why_unreachable() -> str:
    """Why the hub cannot be had; empty if it can, or if a proxy stands between, which is left to the download."""
    if urllib.request.getproxies():
        return ""
    address = urlsplit(constants.ENDPOINT)
    try:
        with socket.create_connection((address.hostname, address.port or 443), timeout=SECONDS):
            return ""
    except OSError as error:
        return error.strerror or str(error)


def ask_the_network_first() -> None:
    """Tries the hub's address once before the first request, and goes on with its cache if it cannot be had."""

    def client() -> object:
        if not constants.HF_HUB_OFFLINE and why_unreachable():
            constants.HF_HUB_OFFLINE = True
        return _http.default_client_factory()

    huggingface_hub.set_client_factory(client)  # type: ignore[arg-type]


def offline_hint() -> str:
    """What to do about weights that are not in the hub's cache."""
    if reason := why_unreachable():
        first = f"{constants.ENDPOINT} cannot be reached ({reason}), and they are not in its cache"
    else:
        first = "HF_HUB_OFFLINE is set, and they are not in the cache"
    remedy = "Download them once where there is a network, and bring that folder (HF_HOME)."
    return f"{first} ('{constants.HF_HUB_CACHE}'). {remedy}"
