/* A stand-in for NVIDIA's management library, driven by the text file named by NVML_STUB_STATE.
 *
 * Each line is `key number` or `key text`. Keys: init, count, map<i> (index to physical GPU),
 * count_code, strict_handles, and per physical GPU g: g<g>.util, .mem_used, .mem_total, .temp,
 * .power_mw, .limit_mw, .energy_mj, .clock_mhz, .reasons, .pids (a,b,c), .name, .uuid, .minor,
 * .mig, .lost (a code), .latch, .delay_ms, .err.<function> and .slice_err.<function> (codes). A delay that
 * is taken out of the file ends at once. Of its health: .copy, .memory_clock_mhz, .field<number> (of
 * NVML's fields; absent ones are not supported), .fan, .pstate, .violation<policy> (ns; absent ones are
 * not supported), .ecc<kind><counter>, .rows_corrected, .rows_uncorrected, .rows_pending, .rows_failed,
 * .pages<cause>, .pages_pending, .pcie<direction>, .replays, .xids (a,b,c: each told once; more may
 * be appended). With OLD_DRIVER defined it has the functions that drivers had before 2022.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <pthread.h>

enum { LINES = 1024, GPUS = 64 };
struct line { char key[64]; char text[192]; };
static struct line *lines;
static int n_lines, initialised, generation, latched[GPUS];
static struct timespec loaded;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void reload(void) {
    const char *path = getenv("NVML_STUB_STATE");
    struct stat now;
    if (lines && getenv("NVML_STUB_FROZEN")) return; /* for benchmarks: read the file once */
    if (!path || stat(path, &now)) return;
    if (lines && now.st_mtim.tv_sec == loaded.tv_sec && now.st_mtim.tv_nsec == loaded.tv_nsec) return;
    FILE *file = fopen(path, "r");
    if (!file) return;
    if (!lines) lines = calloc(LINES, sizeof *lines);
    for (n_lines = 0; n_lines < LINES &&
         fscanf(file, "%63s %191[^\n]", lines[n_lines].key, lines[n_lines].text) == 2;) n_lines++;
    fclose(file);
    loaded = now.st_mtim;
}

static int text(const char *key, char *out, size_t size) {
    int found = 0;
    pthread_mutex_lock(&lock);
    reload();
    for (int i = 0; i < n_lines && !found; i++)
        if (!strcmp(lines[i].key, key)) { snprintf(out, size, "%s", lines[i].text); found = 1; }
    pthread_mutex_unlock(&lock);
    return found;
}

static long long number(const char *key, long long otherwise) {
    char value[192];
    return text(key, value, sizeof value) ? atoll(value) : otherwise;
}

static long long of_gpu(int gpu, const char *name, long long otherwise) {
    char key[64];
    snprintf(key, sizeof key, "g%d.%s", gpu, name);
    return number(key, otherwise);
}

/* A handle carries the generation of nvmlInit, the physical GPU and the MIG slice + 1. */
typedef uintptr_t handle;
static int gpu_of(handle h) { return (h >> 8) & 0xff; }
static int slice_of(handle h) { return (int)(h & 0xff) - 1; }
static handle make(int gpu, int slice) {
    return ((handle)generation << 16) | ((handle)gpu << 8) | (handle)(slice + 1);
}

static int enter(handle h, const char *function) {
    char key[64];
    int gpu = gpu_of(h);
    if (!initialised) return 1;
    if ((int)(h >> 16) != generation && number("strict_handles", 1)) return 2;
    for (int waited = 0; waited < of_gpu(gpu, "delay_ms", 0); waited += 5)
        nanosleep(&(struct timespec){0, 5000000}, NULL);
    int lost = (int)of_gpu(gpu, "lost", latched[gpu]);
    if (lost && of_gpu(gpu, "latch", 0)) latched[gpu] = lost;
    if (lost || latched[gpu]) return lost ? lost : latched[gpu];
    snprintf(key, sizeof key, "g%d.%s.%s", gpu, slice_of(h) < 0 ? "err" : "slice_err", function);
    return (int)number(key, 0);
}
#define ENTER(h) do { int code_ = enter(h, __func__); if (code_) return code_; } while (0)

static int inits;
int stub_inits(void) { return inits; } /* how often nvmlInit was called, for tests */
int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    inits++;
    int code = (int)number("init", 0);
    if (code) return code;
    if (!initialised++) { generation++; memset(latched, 0, sizeof latched); }
    return 0;
}
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) { if (!initialised) return 1; initialised--; return 0; }
const char *nvmlErrorString(int code) { (void)code; return "stand-in error"; }
int nvmlSystemGetDriverVersion(char *out, unsigned size) { snprintf(out, size, "550.54.15"); return 0; }
int nvmlSystemGetNVMLVersion(char *out, unsigned size) { snprintf(out, size, "12.550.54"); return 0; }
int nvmlSystemGetCudaDriverVersion_v2(int *out) { *out = 12040; return 0; }

int nvmlDeviceGetCount_v2(unsigned *count) {
    if (!initialised) return 1;
    *count = (unsigned)number("count", 1);
    return (int)number("count_code", 0);
}
int nvmlDeviceGetHandleByIndex_v2(unsigned index, handle *out) {
    char key[64];
    if (!initialised) return 1;
    if (index >= (unsigned)number("count", 1)) return 2;
    snprintf(key, sizeof key, "map%u", index);
    *out = make((int)number(key, index), -1);
    return enter(*out, __func__);
}
int nvmlDeviceGetMinorNumber(handle h, unsigned *out) {
    ENTER(h);
    *out = (unsigned)of_gpu(gpu_of(h), "minor", gpu_of(h));
    return 0;
}
int nvmlDeviceGetIndex(handle h, unsigned *out) { ENTER(h); *out = (unsigned)gpu_of(h); return 0; }

int nvmlDeviceGetUUID(handle h, char *out, unsigned size) {
    char key[64];
    ENTER(h);
    snprintf(key, sizeof key, "g%d.uuid", gpu_of(h));
    if (slice_of(h) >= 0)
        snprintf(out, size, "MIG-%08d-0000-0000-0000-%012d", gpu_of(h), slice_of(h));
    else if (!text(key, out, size))
        snprintf(out, size, "GPU-%08d-0000-0000-0000-000000000000", gpu_of(h));
    return 0;
}
int nvmlDeviceGetName(handle h, char *out, unsigned size) {
    char key[64];
    ENTER(h);
    snprintf(key, sizeof key, "g%d.name", gpu_of(h));
    if (!text(key, out, size)) snprintf(out, size, "NVIDIA H100 80GB HBM3");
    return 0;
}
struct pci { char legacy[16]; unsigned domain, bus, device, id, subsystem; char bus_id[32]; };
int nvmlDeviceGetPciInfo_v3(handle h, struct pci *out) {
    ENTER(h);
    memset(out, 0, sizeof *out);
    snprintf(out->bus_id, sizeof out->bus_id, "00000000:%02X:00.0", gpu_of(h) + 1);
    return 0;
}
int nvmlDeviceGetUtilizationRates(handle h, unsigned out[2]) {
    ENTER(h);
    if (slice_of(h) >= 0) return 3;
    out[0] = (unsigned)of_gpu(gpu_of(h), "util", 37);
    out[1] = (unsigned)of_gpu(gpu_of(h), "copy", 20);
    return 0;
}
#ifdef OLD_DRIVER
struct memory1 { unsigned long long total, free, used; };
int nvmlDeviceGetMemoryInfo(handle h, struct memory1 *out) {
    ENTER(h);
    out->total = (unsigned long long)of_gpu(gpu_of(h), "mem_total", 80000000000);
    out->used = (unsigned long long)of_gpu(gpu_of(h), "mem_used", 20000000000);
    out->free = out->total - out->used;
    return 0;
}
#else
struct memory2 { unsigned version; unsigned long long total, reserved, free, used; };
int nvmlDeviceGetMemoryInfo_v2(handle h, struct memory2 *out) {
    ENTER(h);
    out->total = (unsigned long long)of_gpu(gpu_of(h), "mem_total", 80000000000);
    out->used = (unsigned long long)of_gpu(gpu_of(h), "mem_used", 20000000000);
    out->reserved = 0;
    out->free = out->total - out->used;
    return 0;
}
#endif
#ifndef OLD_DRIVER
struct temperature { unsigned version, sensor; int celsius; };
int nvmlDeviceGetTemperatureV(handle h, struct temperature *out) {
    ENTER(h);
    out->celsius = (int)of_gpu(gpu_of(h), "temp", 61);
    return 0;
}
#endif
int nvmlDeviceGetTemperature(handle h, int sensor, unsigned *out) {
    (void)sensor;
    ENTER(h);
    *out = (unsigned)of_gpu(gpu_of(h), "temp", 61);
    return 0;
}
int nvmlDeviceGetPowerUsage(handle h, unsigned *out) {
    ENTER(h);
    *out = (unsigned)of_gpu(gpu_of(h), "power_mw", 312350);
    return 0;
}
int nvmlDeviceGetEnforcedPowerLimit(handle h, unsigned *out) {
    ENTER(h);
    *out = (unsigned)of_gpu(gpu_of(h), "limit_mw", 700000);
    return 0;
}
int nvmlDeviceGetTotalEnergyConsumption(handle h, unsigned long long *out) {
    ENTER(h);
    *out = (unsigned long long)of_gpu(gpu_of(h), "energy_mj", 5000000);
    return 0;
}
enum { MEMORY_CLOCK = 2 };
int nvmlDeviceGetClockInfo(handle h, int type, unsigned *out) {
    ENTER(h);
    *out = type == MEMORY_CLOCK ? (unsigned)of_gpu(gpu_of(h), "memory_clock_mhz", 2619)
                                : (unsigned)of_gpu(gpu_of(h), "clock_mhz", 1980);
    return 0;
}
int nvmlDeviceGetMaxClockInfo(handle h, int type, unsigned *out) {
    ENTER(h);
    *out = type == MEMORY_CLOCK ? 2619 : 1980;
    return 0;
}
struct field { unsigned id, scope; long long timestamp, latency; int type, code; long long value; };
int nvmlDeviceGetFieldValues(handle h, int count, struct field *out) {
    char key[64];
    ENTER(h);
    for (int i = 0; i < count; i++) {
        snprintf(key, sizeof key, "field%u", out[i].id);
        out[i].value = of_gpu(gpu_of(h), key, -1);
        out[i].type = 3; /* unsigned long long */
        out[i].code = out[i].value < 0 ? 3 : 0;
    }
    return 0;
}
int nvmlDeviceGetFanSpeed(handle h, unsigned *out) {
    ENTER(h);
    long long fan = of_gpu(gpu_of(h), "fan", -1);
    *out = (unsigned)fan;
    return fan < 0 ? 3 : 0;
}
int nvmlDeviceGetPerformanceState(handle h, int *out) {
    ENTER(h);
    *out = (int)of_gpu(gpu_of(h), "pstate", 0);
    return 0;
}
struct violation { unsigned long long reference, time; };
int nvmlDeviceGetViolationStatus(handle h, int policy, struct violation *out) {
    char key[64];
    ENTER(h);
    snprintf(key, sizeof key, "violation%d", policy);
    long long time = of_gpu(gpu_of(h), key, policy < 2 ? 1500000000 : -1);
    *out = (struct violation){0, (unsigned long long)time};
    return time < 0 ? 3 : 0;
}
int nvmlDeviceGetTotalEccErrors(handle h, int kind, int counter, unsigned long long *out) {
    char key[64];
    ENTER(h);
    snprintf(key, sizeof key, "ecc%d%d", kind, counter);
    *out = (unsigned long long)of_gpu(gpu_of(h), key, 0);
    return 0;
}
int nvmlDeviceGetRemappedRows(handle h, unsigned *corrected, unsigned *uncorrected, unsigned *pending,
                              unsigned *failed) {
    ENTER(h);
    *corrected = (unsigned)of_gpu(gpu_of(h), "rows_corrected", 0);
    *uncorrected = (unsigned)of_gpu(gpu_of(h), "rows_uncorrected", 0);
    *pending = (unsigned)of_gpu(gpu_of(h), "rows_pending", 0);
    *failed = (unsigned)of_gpu(gpu_of(h), "rows_failed", 0);
    return 0;
}
int nvmlDeviceGetRetiredPages(handle h, int cause, unsigned *count, unsigned long long *out) {
    char key[64];
    unsigned room = *count;
    ENTER(h);
    snprintf(key, sizeof key, "pages%d", cause);
    *count = (unsigned)of_gpu(gpu_of(h), key, 0);
    if (out && *count <= room) memset(out, 0, *count * sizeof *out);
    return *count > room ? 7 : 0;
}
int nvmlDeviceGetRetiredPagesPendingStatus(handle h, int *out) {
    ENTER(h);
    *out = (int)of_gpu(gpu_of(h), "pages_pending", 0);
    return 0;
}
int nvmlDeviceGetPcieThroughput(handle h, int direction, unsigned *out) {
    char key[64];
    ENTER(h);
    snprintf(key, sizeof key, "pcie%d", direction);
    *out = (unsigned)of_gpu(gpu_of(h), key, 1000 * (direction + 1));
    return 0;
}
int nvmlDeviceGetPcieReplayCounter(handle h, unsigned *out) {
    ENTER(h);
    *out = (unsigned)of_gpu(gpu_of(h), "replays", 3);
    return 0;
}
int nvmlDeviceGetPersistenceMode(handle h, int *out) { ENTER(h); *out = 1; return 0; }
int nvmlDeviceGetEccMode(handle h, int *current, int *pending) {
    ENTER(h);
    *current = *pending = 1;
    return 0;
}
struct attributes {
    unsigned multiprocessors, copy, decoders, encoders, jpeg, ofa, gpu_slices, compute_slices;
    unsigned long long memory_mb;
};
int nvmlDeviceGetAttributes_v2(handle h, struct attributes *out) {
    ENTER(h);
    *out = (struct attributes){.gpu_slices = 1, .compute_slices = 1, .memory_mb = 9856};
    return 0;
}

/* A set of events belongs to one GPU here, which is how the program uses them. */
static int told[GPUS]; /* is as old as the driver: it outlives nvmlShutdown */
int nvmlEventSetCreate(int **out) { *out = malloc(sizeof **out); return 0; }
int nvmlEventSetFree(int *set) { free(set); return 0; }
int nvmlDeviceRegisterEvents(handle h, unsigned long long types, int *set) {
    ENTER(h);
    if (types != 8 || slice_of(h) >= 0) return 3;
    *set = gpu_of(h);
    return 0;
}
struct event { handle device; unsigned long long type, data; unsigned instance, compute_instance; };
int nvmlEventSetWait_v2(int *set, struct event *out, unsigned timeout) {
    char key[64], xids[192] = "", *rest = NULL;
    int n = 0;
    (void)timeout;
    if (!initialised) return 1;
    snprintf(key, sizeof key, "g%d.xids", *set);
    text(key, xids, sizeof xids);
    for (char *xid = strtok_r(xids, ",", &rest); xid; xid = strtok_r(NULL, ",", &rest), n++)
        if (n == told[*set]) {
            told[*set]++;
            *out = (struct event){make(*set, -1), 8, (unsigned long long)atoi(xid), ~0u, ~0u};
            return 0;
        }
    return 10;
}
#ifdef OLD_DRIVER
#define nvmlDeviceGetCurrentClocksEventReasons nvmlDeviceGetCurrentClocksThrottleReasons
#endif
int nvmlDeviceGetCurrentClocksEventReasons(handle h, unsigned long long *out) {
    ENTER(h);
    *out = (unsigned long long)of_gpu(gpu_of(h), "reasons", 4);
    return 0;
}
struct process { unsigned pid; unsigned long long memory; unsigned instance, compute_instance; };
#ifdef OLD_DRIVER
#define nvmlDeviceGetComputeRunningProcesses_v3 nvmlDeviceGetComputeRunningProcesses_v2
#endif
int nvmlDeviceGetComputeRunningProcesses_v3(handle h, unsigned *count, struct process *out) {
    char key[64], pids[192] = "", *rest = NULL;
    unsigned n = 0, room = *count;
    ENTER(h);
    snprintf(key, sizeof key, "g%d.pids", gpu_of(h));
    text(key, pids, sizeof pids);
    for (char *pid = strtok_r(pids, ",", &rest); pid; pid = strtok_r(NULL, ",", &rest), n++)
        if (out && n < room) out[n] = (struct process){(unsigned)atoi(pid), 1 << 20, ~0u, ~0u};
    *count = n;
    return n > room ? 7 : 0;
}
int nvmlDeviceGetMigMode(handle h, unsigned *current, unsigned *pending) {
    ENTER(h);
    *current = *pending = of_gpu(gpu_of(h), "mig", 0) > 0;
    return 0;
}
int nvmlDeviceGetMaxMigDeviceCount(handle h, unsigned *out) { ENTER(h); *out = 7; return 0; }
int nvmlDeviceGetMigDeviceHandleByIndex(handle h, unsigned index, handle *out) {
    ENTER(h);
    if (index >= (unsigned)of_gpu(gpu_of(h), "mig", 0)) return 6;
    *out = make(gpu_of(h), (int)index);
    return 0;
}
