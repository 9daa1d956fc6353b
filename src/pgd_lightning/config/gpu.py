"""Whether there is a GPU that torch can use, asked of the driver: loading torch for it would take seconds."""

import ctypes
from importlib.util import find_spec
from pathlib import Path

BUILDS = {  # a library of torch's, and of the driver that it was built for: its library, and what begins and counts
    "libtorch_cuda.so": ("libcuda.so.1", "cuInit", "cuDeviceGetCount"),
    "libtorch_hip.so": ("libamdhip64.so", "hipInit", "hipGetDeviceCount"),
}


def gpu_is_there() -> bool:
    """Whether ``torch.cuda.is_available()`` would be true; GPUs hidden by ``CUDA_VISIBLE_DEVICES`` do not count."""
    torch = find_spec("torch")
    if torch is None or torch.origin is None:
        return False
    libraries = Path(torch.origin).parent / "lib"
    return any((libraries / built).exists() and _devices(libraries, *driver) for built, driver in BUILDS.items())


def _devices(libraries: Path, driver: str, begin: str, count: str) -> int:
    """The devices that a driver sees; 0 without it."""
    number = ctypes.c_int(0)
    for name in (driver, str(libraries / driver)):
        try:
            library = ctypes.CDLL(name)
            if getattr(library, begin)(0) == 0 and getattr(library, count)(ctypes.byref(number)) == 0:
                return number.value
        except (OSError, AttributeError):
            continue
    return 0
