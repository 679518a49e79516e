"""How much memory this process has held."""

import sys
from pathlib import Path

try:
    import resource
except ImportError:  # Windows
    resource = None


def peak_resident_bytes():
    """The largest resident set of this process so far; 0 where the system does not say."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    if resource is None:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)  # macOS gives bytes
