"""CuPy without a GPU: the strict arrays of `strict.py`, and CUDA kernels that a CPU runs.

Put into `sys.modules` as `cupy`, it lets all of minivit run as on a GPU, `minivit/cuda` included:
g++ compiles the kernels' own source with `emulated/cuda_fp16.h`, and cuBLAS's product reads and
writes the very addresses it is given. Slow, and exact about what it is asked: an operand that lies
otherwise than said, a lane that does not come to a shuffle, more memory than the device has.
"""

import contextlib
import ctypes
import hashlib
import shutil
import subprocess
import tempfile
import types
import weakref
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
COMPILER = shutil.which("g++")
COMPILED = HERE.parents[1] / ".pytest_cache" / "kernels"  # a folder that git ignores

# A strict module of its own: its arrays are others than those of `strict`, which stay without
# kernels.
exec(compile((HERE / "strict.py").read_text(), HERE / "strict.py", "exec"), globals())

ndarray = StrictArray = globals()["StrictArray"]
asarray = globals()["asarray"]


class OutOfMemoryError(MemoryError):
    """As `cupy.cuda.memory.OutOfMemoryError`."""


class Device:
    """The device's memory, of which a pool holds what was once needed; and what was asked of it."""

    def __init__(self):
        self.total = 1 << 40  # bytes
        self.used = self.held = 0
        self.launches = self.reads = 0
        self.may_wait = True

    def take(self, host):
        """The memory of an array, until that is no more."""
        if self.used + host.nbytes > self.total:
            raise OutOfMemoryError(f"Out of memory allocating {host.nbytes:,} bytes")
        self.used += host.nbytes
        self.held = max(self.held, self.used)
        weakref.finalize(host, self.give, host.nbytes)

    def give(self, size):
        self.used -= size

    def used_bytes(self):
        return self.used

    def total_bytes(self):
        return self.held

    def free_all_blocks(self):
        self.held = self.used


device = Device()


def _init(self, host):
    if host.base is None:
        device.take(host)
    self._host = host


def _get(self):
    if not device.may_wait:
        raise DeviceSynchronized
    device.reads += 1
    return self._host.copy()


def _set(self, host, stream=None):
    if stream is not None:
        stream.asked.append(("copy", self))
    self._host[...] = host


StrictArray.__init__, StrictArray.get, StrictArray.set = _init, _get, _set
StrictArray.data = property(lambda self: types.SimpleNamespace(ptr=self._host.ctypes.data))
StrictArray.flags = property(lambda self: self._host.flags)


# --- kernels ----------------------------------------------------------------------------------


class RawModule:
    """As `cupy.RawModule`, with g++ in the place of NVRTC."""

    def __init__(self, code, options=(), name_expressions=()):
        names = "\n".join(
            f'extern "C" bool launch_{i}(unsigned* grid, unsigned* block, void** args) '
            f"{{ return launch<{name}>({name}, grid, block, args); }}"
            for i, name in enumerate(name_expressions)
        )
        self.names = tuple(name_expressions)
        self.library = ctypes.CDLL(str(compiled(f"{code}\n{names}", options)))

    def get_function(self, name):
        function = self.library[f"launch_{self.names.index(name)}"]
        function.restype = ctypes.c_bool

        def launch(blocks, threads, args):
            device.launches += 1
            slots = [slot(arg) for arg in args]
            pointers = [ctypes.cast(ctypes.pointer(s), ctypes.c_void_p) for s in slots]
            sizes = [(ctypes.c_uint * 2)(*(*shape, 1)[:2]) for shape in (blocks, threads)]
            if not function(*sizes, (ctypes.c_void_p * len(pointers))(*pointers)):
                raise RuntimeError(f"{name}: a thread waits for one that does not come")

        return launch


def compiled(source, options):
    """The shared library of a source; one that was made before is taken again."""
    header = (HERE / "emulated" / "cuda_fp16.h").read_text()
    key = hashlib.sha256((header + source + str(options)).encode()).hexdigest()[:24]
    library = COMPILED / f"{key}.so"
    if not library.exists():
        COMPILED.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=COMPILED) as folder:
            made = Path(folder) / "kernel.so"
            command = [COMPILER, "-x", "c++", "-", "-O1", "-shared", "-fPIC", "-w", *options]
            command += [f"-I{HERE / 'emulated'}", "-o", str(made)]
            done = subprocess.run(command, input=source, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"g++ refuses the kernel:\n{done.stderr}")
            made.rename(library)
    return library


def slot(arg):
    """An argument as a kernel takes it: an address, a `long long` or a `double`."""
    if isinstance(arg, StrictArray):
        assert arg.flags.c_contiguous, "a kernel reads one number after the other"
        return ctypes.c_void_p(arg.data.ptr)
    return ctypes.c_double(arg) if isinstance(arg, float) else ctypes.c_longlong(arg)


# --- cuBLAS -----------------------------------------------------------------------------------

REALS = {2: np.float16, 0: np.float32, 1: np.float64}
BITS = {77: 10, 75: 7}  # behind the point, that a product of float32 reads: TF32, bfloat16


def stored(address, dtype, rows, columns, leading, many, distance):
    """Matrices that lie column by column from an address on, as cuBLAS takes them."""
    assert leading >= max(1, rows), "the leading dimension is too small"
    item = np.dtype(dtype).itemsize
    size = (rows - 1) + (columns - 1) * leading + (many - 1) * distance + 1
    bytes_there = (ctypes.c_char * (size * item)).from_address(address)
    strides = distance * item, item, leading * item
    flat = np.frombuffer(bytes_there, dtype)
    return np.lib.stride_tricks.as_strided(flat, (many, rows, columns), strides)


def rounded(x, bits):
    """float32 with so many bits behind the point, the others rounded away."""
    step = np.uint32(1 << (23 - bits))
    whole = np.ascontiguousarray(x).view(np.uint32) + step // 2
    return (whole & ~(step - np.uint32(1))).view(np.float32)


def gemm_strided_batched_ex(
    handle, transa, transb, m, n, k, alpha, A, Atype, lda, stride_a, B, Btype, ldb, stride_b,
    beta, C, Ctype, ldc, stride_c, many, compute, algorithm,
):  # fmt: skip
    device.launches += 1
    dtype = REALS[Atype]
    wide = np.float64 if dtype == np.float64 else np.float32
    assert (compute == 70) == (wide == np.float64)
    factor = ctypes.c_double if wide == np.float64 else ctypes.c_float
    assert (factor.from_address(alpha).value, factor.from_address(beta).value) == (1, 0)
    a = stored(A, dtype, *((k, m) if transa else (m, k)), lda, many, stride_a)
    b = stored(B, REALS[Btype], *((n, k) if transb else (k, n)), ldb, many, stride_b)
    c = stored(C, REALS[Ctype], m, n, ldc, many, stride_c)
    a, b = (a.mT if transa else a).astype(wide), (b.mT if transb else b).astype(wide)
    if compute in BITS:
        a, b = rounded(a, BITS[compute]), rounded(b, BITS[compute])
    c[...] = a @ b


# --- the rest of the interface ----------------------------------------------------------------


class Stream:
    """One of the device's queues, which notes what it is asked. Here all is done at once."""

    def __init__(self, non_blocking=False):
        self.asked, self.ptr = [], int(non_blocking)

    def __enter__(self):
        return self

    def __exit__(self, *reason):
        return None

    def record(self):
        event = types.SimpleNamespace(stream=self, behind=device.launches)
        self.asked.append(("record", event))
        return event

    def wait_event(self, event):
        self.asked.append(("wait", event))

    def synchronize(self):
        self.asked.append(("synchronize",))


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
        memGetInfo=lambda: (device.total - device.held, device.total),
    ),
    device=types.SimpleNamespace(get_cublas_handle=lambda: 0),
    memory=types.SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
    Device=contextlib.nullcontext,
    Stream=Stream,
    get_current_stream=lambda: Stream.null,
)  # fmt: skip


def get_default_memory_pool():
    return device


class DeviceSynchronized(RuntimeError):
    """As `cupyx.DeviceSynchronized`."""


@contextlib.contextmanager
def allow_synchronize(allow):
    """As `cupyx.allow_synchronize`: with False, whoever makes the host wait is told."""
    before, device.may_wait = device.may_wait, allow
    try:
        yield
    finally:
        device.may_wait = before


cupyx = types.ModuleType("cupyx")
cupyx.DeviceSynchronized, cupyx.allow_synchronize = DeviceSynchronized, allow_synchronize
cupyx.empty_pinned = lambda shape, dtype: np.empty(shape, dtype)
