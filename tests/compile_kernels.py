"""Compile every kernel for every dtype with NVRTC, through CuPy. No device is needed.

    python tests/compile_kernels.py

Ends with 77 if NVRTC or the headers of CUDA are not there: `pip install "cupy-cuda13x[ctk]"` has
both.
"""

import os
import sys
from importlib import util
from pathlib import Path
from types import ModuleType

ARCHITECTURES = ("sm_75", "sm_80", "sm_90")


def headers():
    """Folders in which there is a cuda_fp16.h."""
    spec = util.find_spec("nvidia")
    roots = [Path(root) for root in (spec.submodule_search_locations if spec else [])]
    folders = [folder for root in roots for folder in root.glob("*/include")]
    folders += [Path(os.environ.get("CUDA_PATH", "/usr/local/cuda")) / "include"]
    return [folder for folder in folders if (folder / "cuda_fp16.h").is_file()]


def kernels():
    """All of `minivit.cuda`."""
    from minivit import cuda
    from minivit.cuda.kernel import Kernel

    things = [vars(thing) for thing in vars(cuda).values() if isinstance(thing, ModuleType)]
    return {id(k): k for named in things for k in named.values() if isinstance(k, Kernel)}.values()


def main():
    try:
        import cupy  # noqa: F401
        from cupy_backends.cuda.libs import nvrtc

        version = nvrtc.getVersion()
    except Exception as error:
        print(f"no NVRTC: {error}")
        return 77
    if not headers():
        print("no cuda_fp16.h")
        return 77
    from minivit.cuda.kernel import TYPES

    for kernel in kernels():
        for dtype, T in TYPES.items():
            for architecture in ARCHITECTURES:
                program = nvrtc.createProgram(kernel.source, f"{kernel.name}.cu", (), ())
                nvrtc.addNameExpression(program, f"{kernel.name}<{T}>")
                options = ["--std=c++17", f"-arch={architecture}", *(f"-I{f}" for f in headers())]
                try:
                    nvrtc.compileProgram(program, tuple(options))
                except nvrtc.NVRTCError:
                    print(nvrtc.getProgramLog(program))
                    return 1
                size = len(nvrtc.getCUBIN(program))
                print(f"compiled {kernel.name}, {dtype}, {architecture}: {size:,} bytes")
    print("by NVRTC " + ".".join(map(str, version)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
