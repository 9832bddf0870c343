// CUDA C++, as far as minivit's kernels speak it, on the host: so that g++ compiles and a CPU runs
// them. In the place of the header of this name, which every kernel includes.
//
// One block runs at a time. Each of its threads has a stack of its own and runs until it has to wait
// for others: at __syncthreads for the block's, at a shuffle for the 32 of its warp.

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
    bool begun;
    char* stack;
    dim3 index;
    State state;
    int turn;                 // of its shuffles: what it gave in the last one must stay to be read
    uint64_t given[2];
};

static Thread threads[1024], *running;
static jmp_buf scheduler;
static void (*body)();        // what all threads are to do

static void wait_for(State state) {
    running->state = state;
    if (!_setjmp(running->context)) _longjmp(scheduler, 1);
}

// A thread does what there is to do, and then waits for the next block.
static void work() {
    for (;;) {
        body();
        wait_for(DONE);
    }
}

static void go_on(Thread& t) {
    running = &t;
    threadIdx = t.index;
    if (_setjmp(scheduler)) return;
    if (t.begun) _longjmp(t.context, 1);
    t.begun = true;
    const size_t size = 1 << 16;
    ucontext_t beginning;
    getcontext(&beginning);
    beginning.uc_stack.ss_sp = t.stack = new char[size];
    beginning.uc_stack.ss_size = size;
    makecontext(&beginning, work, 0);
    setcontext(&beginning);
}

static void __syncthreads() { wait_for(AT_BARRIER); }

template <typename F> F __shfl_xor_sync(unsigned mask, F x, int far) {
    static_assert(sizeof(F) <= 8, "a shuffle is of one number");
    if (mask != 0xffffffff) throw "only whole warps are emulated";
    Thread* mine = running;
    const int turn = mine->turn ^= 1;
    std::memcpy(&mine->given[turn], &x, sizeof(F));
    wait_for(AT_SHUFFLE);
    const size_t place = mine - threads;
    F theirs;
    std::memcpy(&theirs, &threads[place ^ far].given[turn], sizeof(F));
    return theirs;
}

// Lets those go on that all of their group have reached. False: somebody is waited for in vain.
static bool release(size_t first, size_t count, State state) {
    size_t there = 0, left = 0;
    for (size_t i = first; i < first + count; i++) {
        there += threads[i].state == state;
        left += threads[i].state == DONE;
    }
    if (there && left) return false;
    for (size_t i = first; there == count && i < first + count; i++) threads[i].state = READY;
    return true;
}

static bool run_block() {
    const size_t count = blockDim.x * blockDim.y;
    if (count % 32 || count > 1024) return false;
    for (size_t i = 0; i < count; i++) {
        threads[i].index = {unsigned(i % blockDim.x), unsigned(i / blockDim.x), 0};
        threads[i].state = READY, threads[i].turn = 0;
    }
    for (bool going = true; going;) {
        going = false;
        for (size_t i = 0; i < count; i++) {
            if (threads[i].state != READY) continue;
            go_on(threads[i]);
            going = true;
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
    static void once() { with(std::index_sequence_for<A...>()); }
};

template <auto kernel, typename... A>
bool launch(void (*)(A...), unsigned* grid, unsigned* block, void** args) {
    Call<kernel, A...>::args = args;
    body = Call<kernel, A...>::once;
    gridDim = {grid[0], grid[1], 1}, blockDim = {block[0], block[1], 1};
    for (unsigned y = 0; y < grid[1]; y++)
        for (unsigned x = 0; x < grid[0]; x++) {
            blockIdx = {x, y, 0};
            if (!run_block()) return false;
        }
    return true;
}
