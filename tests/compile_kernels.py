"""Compile every CUDA kernel for every dtype with NVRTC, through CuPy. No GPU is needed.

    python tests/compile_kernels.py

The exit status is 77 if NVRTC or the CUDA headers are missing; `cupy-cuda13x[ctk]` contains both.
"""

import gc
import itertools
import os
import sys
from importlib import util
from pathlib import Path

ARCHITECTURES = ("sm_75", "sm_80", "sm_90")


def find_headers():
    """Return the folders that contain cuda_fp16.h."""
    spec = util.find_spec("nvidia")
    roots = spec.submodule_search_locations if spec else []
    folders = [folder for root in roots for folder in Path(root).glob("*/include")]
    folders += [Path(os.environ.get("CUDA_PATH", "/usr/local/cuda")) / "include"]
    return [folder for folder in folders if (folder / "cuda_fp16.h").is_file()]


def main():
    try:
        import cupy  # noqa: F401  (locates the libraries)
        from cupy_backends.cuda.libs import nvrtc

        version = ".".join(map(str, nvrtc.getVersion()))
    except Exception as error:  # missing libraries raise various types
        print(f"NVRTC is missing: {error}")
        return 77
    if not (headers := find_headers()):
        print("cuda_fp16.h is missing")
        return 77
    from minivit import cuda  # noqa: F401  (creates the kernels)
    from minivit.cuda.kernel import TYPES, Kernel

    kernels = [value for value in gc.get_objects() if isinstance(value, Kernel)]
    for kernel in kernels:
        for (dtype, T), architecture in itertools.product(TYPES.items(), ARCHITECTURES):
            program = nvrtc.createProgram(kernel.source, f"{kernel.name}.cu", (), ())
            nvrtc.addNameExpression(program, f"{kernel.name}<{T}>")
            options = ["--std=c++17", f"-arch={architecture}", *(f"-I{f}" for f in headers)]
            try:
                nvrtc.compileProgram(program, tuple(options))
            except nvrtc.NVRTCError:
                print(nvrtc.getProgramLog(program))
                return 1
            size = len(nvrtc.getCUBIN(program))
            print(f"{kernel.name}, {dtype}, {architecture}: {size:,} bytes")
    print(f"{len(kernels)} kernels compiled by NVRTC {version}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
