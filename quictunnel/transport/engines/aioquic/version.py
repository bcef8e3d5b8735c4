"""The version of aioquic, read without the library's other modules, which take half a second to import."""

from __future__ import annotations

from typing import Final

import aioquic

VERSION: Final = aioquic.__version__
