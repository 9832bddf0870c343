// CUDA C++ on the host, as far as minivit's kernels use it: g++ compiles them, and the CPU executes
// them. This file takes the place of the header of the same name, which every kernel includes.
//
// One block runs at a time. Each of its threads has its own stack and runs until it must wait: at
// __syncthreads for the block, or at a shuffle for the 32 threads of its warp.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>
#include <csetjmp>
#include <ucontext.h>

using std::erfc, std::exp, std::fmax, std::log, std::sqrt, std::tanh;

#define __global__
#define __device__
#define __shared__ static

using __half = _Float16;

struct dim3 { unsigned x = 1, y = 1, z = 1; };
static dim3 gridDim, blockDim, blockIdx, threadIdx;

enum State { READY, AT_BARRIER, AT_SHUFFLE, DONE };

struct Thread {
    jmp_buf context;
    bool started;
    char* stack;
    dim3 index;
    State state;
    int slot;                 // of the last shuffle; its value must remain readable in the next one
    uint64_t values[2];
};

static Thread threads[1024], *running;
static jmp_buf scheduler;
static void (*body)();        // the kernel call that all threads execute

static void wait_in(State state) {
    running->state = state;
    if (!_setjmp(running->context)) _longjmp(scheduler, 1);
}

// A thread executes the kernel, and then waits for the next block.
static void thread_main() {
    for (;;) {
        body();
        wait_in(DONE);
    }
}

static void resume(Thread& t) {
    running = &t;
    threadIdx = t.index;
    if (_setjmp(scheduler)) return;
    if (t.started) _longjmp(t.context, 1);
    t.started = true;
    const size_t size = 1 << 16;
    ucontext_t context;
    getcontext(&context);
    context.uc_stack.ss_sp = t.stack = new char[size];
    context.uc_stack.ss_size = size;
    makecontext(&context, thread_main, 0);
    setcontext(&context);
}

static void __syncthreads() { wait_in(AT_BARRIER); }

template <typename F> F __shfl_xor_sync(unsigned mask, F x, int lane_mask) {
    static_assert(sizeof(F) <= 8, "a shuffle exchanges one scalar");
    if (mask != 0xffffffff) throw "only shuffles of whole warps are emulated";
    Thread* self = running;
    const int slot = self->slot ^= 1;
    std::memcpy(&self->values[slot], &x, sizeof(F));
    wait_in(AT_SHUFFLE);
    const size_t index = self - threads;
    F result;
    std::memcpy(&result, &threads[index ^ lane_mask].values[slot], sizeof(F));
    return result;
}

// Releases a group of threads if all of them have arrived. Returns false if one of them has ended,
// so that the others would wait for ever.
static bool release(size_t first, size_t count, State state) {
    size_t arrived = 0, ended = 0;
    for (size_t i = first; i < first + count; i++) {
        arrived += threads[i].state == state;
        ended += threads[i].state == DONE;
    }
    if (arrived && ended) return false;
    for (size_t i = first; arrived == count && i < first + count; i++) threads[i].state = READY;
    return true;
}

static bool run_block() {
    const size_t count = blockDim.x * blockDim.y;
    if (count % 32 || count > 1024) return false;
    for (size_t i = 0; i < count; i++) {
        threads[i].index = {unsigned(i % blockDim.x), unsigned(i / blockDim.x), 0};
        threads[i].state = READY, threads[i].slot = 0;
    }
    for (bool progress = true; progress;) {
        progress = false;
        for (size_t i = 0; i < count; i++) {
            if (threads[i].state != READY) continue;
            resume(threads[i]);
            progress = true;
        }
        for (size_t i = 0; i < count; i += 32)
            if (!release(i, 32, AT_SHUFFLE)) return false;
        if (!release(0, count, AT_BARRIER)) return false;
    }
    for (size_t i = 0; i < count; i++)
        if (threads[i].state != DONE) return false;
    return true;
}

template <auto kernel, typename... A> struct Call {
    static inline void** args;
    template <size_t... I> static void with(std::index_sequence<I...>) {
        kernel(*static_cast<A*>(args[I])...);
    }
    static void run() { with(std::index_sequence_for<A...>()); }
};

template <auto kernel, typename... A>
bool launch(void (*)(A...), unsigned* grid, unsigned* block, void** args) {
    Call<kernel, A...>::args = args;
    body = Call<kernel, A...>::run;
    gridDim = {grid[0], grid[1], 1}, blockDim = {block[0], block[1], 1};
    for (unsigned y = 0; y < grid[1]; y++)
        for (unsigned x = 0; x < grid[0]; x++) {
            blockIdx = {x, y, 0};
            if (!run_block()) return false;
        }
    return true;
}
