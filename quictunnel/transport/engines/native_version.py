"""The version of the native extension, read without the engine, whose modules take as long to import as Python
takes to start."""

from __future__ import annotations

from typing import Final

import quictunnel_native

# The extension's interface changes with its minor version; the extra ``native`` requires the same.
REQUIRED_VERSION: Final = "0.3."
if not quictunnel_native.__version__.startswith(REQUIRED_VERSION):
    raise ImportError(
        f"quictunnel-native {quictunnel_native.__version__} is installed, {REQUIRED_VERSION}* is needed"
    )

VERSION: Final = f"{quictunnel_native.__version__} (quinn-proto {quictunnel_native.QUINN_PROTO_VERSION})"
