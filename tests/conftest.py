"""Every test process measures the machine for itself: nothing of the user's own cache is read or written."""

from __future__ import annotations

import os
import tempfile

_folder = tempfile.TemporaryDirectory(prefix="kdbench-cache-", ignore_cleanup_errors=True)
os.environ["KDBENCH_CACHE"] = _folder.name
