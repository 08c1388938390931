"""Let another virtual environment use this one's packages (torch is large) after its own.

.venv/bin/python tools/share_packages.py .venv-gradio3
"""

import subprocess
import sys
import sysconfig
from pathlib import Path

environment = Path(sys.argv[1])
theirs = subprocess.check_output(
    [environment / "bin" / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
).strip()
# paths in a .pth file come after the environment's own packages
Path(theirs, "shared_packages.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
