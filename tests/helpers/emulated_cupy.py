"""CuPy without a GPU: the strict arrays of `strict.py`, and CUDA kernels that the CPU executes.

With this module as `sys.modules["cupy"]`, all of minivit runs as on a GPU, including
`minivit/cuda`. g++ compiles the source of the kernels with `emulated/cuda_fp16.h`. The emulated
cuBLAS reads and writes the addresses that it receives. Errors that a GPU would not report raise
exceptions, such as a wrong stride or a lane that misses a shuffle.
"""

import contextlib
import ctypes
import hashlib
import shutil
import subprocess
import sys
import tempfile
import types
import warnings
import weakref
from functools import partial
from pathlib import Path

import numpy as np

from helpers import strict

COMPILER = shutil.which("g++")
INCLUDE = Path(__file__).parent / "emulated"
CACHE = Path(__file__).parents[2] / ".pytest_cache" / "kernels"
TYPES = ("__half", "float", "double")


class OutOfMemoryError(MemoryError):
    """Stands for `cupy.cuda.memory.OutOfMemoryError`."""


class DeviceSynchronized(RuntimeError):
    """Stands for `cupyx.DeviceSynchronized`."""


class Device:
    """The memory of the device, CuPy's memory pool, and counters of launches and downloads."""

    def __init__(self):
        self.total = 1 << 40  # bytes
        self.used = self.pool = 0
        self.launches = self.downloads = 0
        self.may_synchronize = True

    def allocate(self, host):
        if self.used + host.nbytes > self.total:
            raise OutOfMemoryError(f"Out of memory allocating {host.nbytes:,} bytes")
        self.used += host.nbytes
        self.pool = max(self.pool, self.used)
        weakref.finalize(host, self.free, host.nbytes)

    def free(self, size):
        self.used -= size

    def limit_memory(self, monkeypatch, size):
        """Leave this many bytes free."""
        monkeypatch.setattr(self, "total", self.used + size)
        self.free_all_blocks()

    def used_bytes(self):
        return self.used

    def total_bytes(self):
        return self.pool

    def free_all_blocks(self):
        self.pool = self.used


device = Device()


class ndarray(strict.StrictArray):
    """A strict array with the memory and the attributes that `minivit.cuda` needs."""

    __module__ = "emulated_cupy"
    __slots__ = ()

    def __init__(self, host):
        if host.base is None:
            device.allocate(host)
        self._host = host

    def get(self):
        if not device.may_synchronize:
            raise DeviceSynchronized
        device.downloads += 1
        return self._host.copy()

    def set(self, host, stream=None):
        if stream is not None:
            stream.calls.append(("copy",))
        self._host[...] = host

    @property
    def data(self):
        return types.SimpleNamespace(ptr=self._host.ctypes.data)

    @property
    def flags(self):
        return self._host.flags


asarray = partial(strict.asarray, array_type=ndarray)
__getattr__ = partial(strict.get_attribute, array_type=ndarray)
sys.modules.setdefault("emulated_cupy", sys.modules[__name__])


class RawModule:
    """Stands for `cupy.RawModule`, with g++ instead of NVRTC."""

    def __init__(self, code, options=(), name_expressions=()):
        # One library for all types, because most of the time is spent on starting g++.
        (expression,) = name_expressions
        kernel = expression.partition("<")[0]
        for i, T in enumerate(TYPES):
            code += (
                f'extern "C" bool launch_{i}(unsigned* grid, unsigned* block, void** args) '
                f"{{ return launch<{kernel}<{T}>>({kernel}<{T}>, grid, block, args); }}\n"
            )
        self.library = ctypes.CDLL(str(compile_library(code, options)))

    def get_function(self, name):
        T = name.partition("<")[2].rstrip(">")
        function = self.library[f"launch_{TYPES.index(T)}"]
        function.restype = ctypes.c_bool

        def launch(blocks, threads, args):
            device.launches += 1
            values = [to_argument(arg) for arg in args]
            pointers = [ctypes.cast(ctypes.pointer(v), ctypes.c_void_p) for v in values]
            sizes = [(ctypes.c_uint * 2)(*(*shape, 1)[:2]) for shape in (blocks, threads)]
            if not function(*sizes, (ctypes.c_void_p * len(pointers))(*pointers)):
                raise RuntimeError(f"{name}: a thread waits for one that has ended")

        return launch


def compile_library(source, options):
    """Return a shared library. It is compiled again only if the source has changed."""
    header = (INCLUDE / "cuda_fp16.h").read_text()
    key = hashlib.sha256((header + source + str(options)).encode()).hexdigest()[:24]
    library = CACHE / f"{key}.so"
    if not library.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            output = Path(folder) / "kernel.so"
            command = [COMPILER, "-x", "c++", "-", "-O1", "-shared", "-fPIC", "-w", *options]
            command += [f"-I{INCLUDE}", "-o", str(output)]
            result = subprocess.run(command, input=source, capture_output=True, text=True)
            if result.returncode:
                raise RuntimeError(f"g++ cannot compile the kernel:\n{result.stderr}")
            output.rename(library)
    return library


def to_argument(arg):
    """Convert an argument of a kernel to an address, a `long long` or a `double`."""
    if isinstance(arg, ndarray):
        assert arg.flags.c_contiguous, "a kernel reads contiguous memory"
        return ctypes.c_void_p(arg.data.ptr)
    return ctypes.c_double(arg) if isinstance(arg, float) else ctypes.c_longlong(arg)


DTYPES = {2: np.float16, 0: np.float32, 1: np.float64}
MANTISSA_BITS = {77: 10, 75: 7}  # of float32 inputs, with TF32 and bfloat16


def view_matrices(address, dtype, rows, columns, leading, count, stride):
    """Return a view of column-major matrices in memory, (count, rows, columns)."""
    assert leading >= max(1, rows), "the leading dimension is too small"
    size = np.dtype(dtype).itemsize
    length = (rows - 1) + (columns - 1) * leading + (count - 1) * stride + 1
    memory = (ctypes.c_char * (length * size)).from_address(address)
    strides = stride * size, size, leading * size
    return np.lib.stride_tricks.as_strided(
        np.frombuffer(memory, dtype), (count, rows, columns), strides
    )


def round_mantissa(x, bits):
    """Round float32 to this number of mantissa bits."""
    step = np.uint32(1 << (23 - bits))
    rounded = np.ascontiguousarray(x).view(np.uint32) + step // 2
    return (rounded & ~(step - np.uint32(1))).view(np.float32)


def gemm_strided_batched_ex(
    handle, transa, transb, m, n, k, alpha, A, Atype, lda, stride_a, B, Btype, ldb, stride_b,
    beta, C, Ctype, ldc, stride_c, count, compute, algorithm,
):  # fmt: skip
    device.launches += 1
    wide = np.float64 if DTYPES[Atype] == np.float64 else np.float32
    assert (compute == 70) == (wide == np.float64)
    scalar = ctypes.c_double if wide == np.float64 else ctypes.c_float
    assert (scalar.from_address(alpha).value, scalar.from_address(beta).value) == (1, 0)
    a = view_matrices(A, DTYPES[Atype], *((k, m) if transa else (m, k)), lda, count, stride_a)
    b = view_matrices(B, DTYPES[Btype], *((n, k) if transb else (k, n)), ldb, count, stride_b)
    c = view_matrices(C, DTYPES[Ctype], m, n, ldc, count, stride_c)
    a, b = (a.mT if transa else a).astype(wide), (b.mT if transb else b).astype(wide)
    if compute in MANTISSA_BITS:
        a, b = (round_mantissa(x, MANTISSA_BITS[compute]) for x in (a, b))
    c[...] = a @ b


class Stream:
    """A stream that executes everything at once and records the calls."""

    def __init__(self, non_blocking=False):
        self.calls, self.ptr = [], int(non_blocking)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    def record(self):
        return types.SimpleNamespace(stream=self, launches=device.launches)

    def wait_event(self, event):
        self.calls.append(("wait", event))

    def synchronize(self):
        self.calls.append(("synchronize",))


Stream.null = Stream()
cuda = types.SimpleNamespace(
    cublas=types.SimpleNamespace(
        CUBLAS_OP_N=0, CUBLAS_OP_T=1, CUBLAS_GEMM_DEFAULT=-1,
        CUBLAS_COMPUTE_32F=68, CUBLAS_COMPUTE_64F=70,
        CUBLAS_COMPUTE_32F_FAST_16BF=75, CUBLAS_COMPUTE_32F_FAST_TF32=77,
        gemmStridedBatchedEx=gemm_strided_batched_ex,
    ),
    runtime=types.SimpleNamespace(
        CUDA_R_16F=2, CUDA_R_32F=0, CUDA_R_64F=1,
        driverGetVersion=lambda: 13000, getDeviceCount=lambda: 1,
        memGetInfo=lambda: (device.total - device.pool, device.total),
    ),
    device=types.SimpleNamespace(get_cublas_handle=lambda: 0),
    memory=types.SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
    Device=contextlib.nullcontext,
    Stream=Stream,
    get_current_stream=lambda: Stream.null,
)  # fmt: skip


def get_default_memory_pool():
    return device


@contextlib.contextmanager
def allow_synchronize(allow):
    """Stands for `cupyx.allow_synchronize` of CuPy 14, including its warning."""
    warnings.warn("cupyx.allow_synchronize will be removed in future releases", stacklevel=3)
    before, device.may_synchronize = device.may_synchronize, allow
    try:
        yield
    finally:
        device.may_synchronize = before


cupyx = types.ModuleType("cupyx")
cupyx.DeviceSynchronized, cupyx.allow_synchronize = DeviceSynchronized, allow_synchronize
cupyx.empty_pinned = lambda shape, dtype: np.empty(shape, dtype)
