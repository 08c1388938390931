"""Waiting for a page that another process serves."""

from __future__ import annotations

import subprocess
import time
import urllib.request
from pathlib import Path


def wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    """Until the server answers; a process that ends before fails with what it wrote."""
    for _ in range(3000):
        assert server.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(url, timeout=30).read()
            return
        except OSError:
            time.sleep(0.2)
    raise TimeoutError(log.read_text())
