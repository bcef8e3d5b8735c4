/* A wide-area network between two TUN devices in two network namespaces: delay, jitter, rate, queue, loss,
 * duplication, corruption, path MTU, black hole and a port-translating NAT, each way on its own, all changeable
 * while packets fly. It works on whole IP packets and knows nothing of what they carry beyond UDP and TCP headers.
 *
 *     wan CLIENT_NETNS EDGE_NETNS CONTROL_FD PARENT_PID
 *
 * CONTROL_FD is a SOCK_SEQPACKET socket: one message is one command, each is answered by one message.
 *     set up|down|both NAME VALUE ...   all of them or, if one is not understood, none
 *     nat 0|1 IDLE_MS                   translate the client's UDP source ports; mappings idle that long are forgotten
 *     rebind                            forget every mapping of the NAT
 *     stats                             counters of both directions, NAME VALUE pairs, up first
 * It ends when the control socket closes or the parent is gone, and both devices go with it. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define PACKET_MAX 65536      /* the largest IP packet there is */
#define HELD_MAX 65536        /* packets in flight each way: 800 ms of 1 Gbit/s; beyond it the tail is dropped */
#define READ_BATCH 64         /* packets read before the other direction and the clock get their turn */
#define DEVICE_QUEUE 10000    /* as lab.py sets it */
#define GRID_NS 200000ull     /* packets leave on this grid: at most 5000 timer wakes a second, whatever the rate */
#define BURST_NS 1000000.0    /* the token bucket's depth: what an idle link may catch up, so late wakes cost no rate */
#define FIRST_OUTER_PORT 20000
#define LAST_OUTER_PORT 60000

enum { DELAY_MS, JITTER_MS, REORDER, RATE_MBIT, QUEUE_MS, QUEUE_BYTES, LOSS, DUPLICATE, CORRUPT, CORRUPT_FIXED,
       MTU, BLACKHOLE, SEED, SETTINGS };
static const char *const setting_names[SETTINGS] = {
    "delay_ms", "jitter_ms", "reorder", "rate_mbit", "queue_ms", "queue_bytes", "loss", "duplicate", "corrupt",
    "corrupt_fixed", "mtu", "blackhole", "seed" };

enum { RECEIVED, RECEIVED_BYTES, DELIVERED, DELIVERED_BYTES, LOST, DUPLICATED, CORRUPTED, REORDERED, QUEUE_DROPPED,
       BLACKHOLED, TOO_BIG, NAT_DROPPED, UNDELIVERABLE, HELD, HELD_BYTES, COUNTERS };
static const char *const counter_names[COUNTERS] = {
    "received", "received_bytes", "delivered", "delivered_bytes", "lost", "duplicated", "corrupted", "reordered",
    "queue_dropped", "blackholed", "too_big", "nat_dropped", "undeliverable", "held", "held_bytes" };

struct packet { uint64_t due, number; uint32_t size; uint8_t bytes[]; };

struct direction {
    int from, to;
    double set[SETTINGS];
    uint64_t count[COUNTERS];
    uint64_t random, next_number, last_delivered, last_due;
    double free_at;                     /* when the bottleneck will have sent all it has accepted, ns */
    struct packet *heap[HELD_MAX];      /* by (due, number); count[HELD] of them */
};
static struct direction up, down;

struct mapping { uint8_t address[16]; uint16_t outer; uint64_t used; };
static struct mapping mappings[65536];  /* by the client's own port */
static uint16_t inner_of[65536];        /* by the port the edge sees; 0: none */
static bool nat_on;
static double nat_idle_ns;
static uint32_t next_outer = FIRST_OUTER_PORT;

static void die(const char *what) { perror(what); exit(1); }

static uint64_t clock_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static uint64_t draw(struct direction *d) {  /* splitmix64: any seed will do, and equal seeds draw alike */
    uint64_t z = (d->random += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}
static double draw_unit(struct direction *d) { return (double)(draw(d) >> 11) * 0x1p-53; }
static bool chance(struct direction *d, int setting) { return d->set[setting] > 0 && draw_unit(d) < d->set[setting]; }

/* ---- looking into packets ------------------------------------------------------------------------------------ */

static uint16_t get16(const uint8_t *p) { return (uint16_t)(p[0] << 8 | p[1]); }
static void put16(uint8_t *p, uint16_t v) { p[0] = (uint8_t)(v >> 8); p[1] = (uint8_t)v; }

struct view { uint8_t *source; size_t address_size; uint8_t protocol; uint8_t *l4, *checksum, *payload; size_t payload_size; };

/* Finds the UDP or TCP header; false for anything else, for fragments and for IPv6 extension headers. */
static bool look(uint8_t *bytes, size_t size, struct view *v) {
    size_t l4 = 0, header = 0;
    if (size >= 20 && bytes[0] >> 4 == 4) {
        if (get16(bytes + 6) & 0x3fff) return false;
        l4 = (size_t)(bytes[0] & 15) * 4;
        *v = (struct view){ .source = bytes + 12, .address_size = 4, .protocol = bytes[9] };
    } else if (size >= 40 && bytes[0] >> 4 == 6) {
        l4 = 40;
        *v = (struct view){ .source = bytes + 8, .address_size = 16, .protocol = bytes[6] };
    } else {
        return false;
    }
    if (v->protocol == 17 && size >= l4 + 8) header = 8;
    else if (v->protocol == 6 && size >= l4 + 20) header = (size_t)(bytes[l4 + 12] >> 4) * 4;
    else return false;
    if (size < l4 + header) return false;
    v->l4 = bytes + l4;
    v->checksum = v->l4 + (v->protocol == 17 ? 6 : 16);
    v->payload = v->l4 + header;
    v->payload_size = size - l4 - header;
    return true;
}

static void repair(const struct view *v, uint16_t before, uint16_t after) {  /* RFC 1624, equation 3 */
    if (v->protocol == 17 && get16(v->checksum) == 0) return;                /* RFC 768: zero means not used */
    uint32_t sum = (uint32_t)(uint16_t)~get16(v->checksum) + (uint16_t)~before + after;
    while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16);
    uint16_t repaired = (uint16_t)~sum;
    put16(v->checksum, v->protocol == 17 && repaired == 0 ? 0xffff : repaired);
}

static bool flip_bit(struct direction *d, uint8_t *bytes, size_t size, bool fix_checksum) {
    struct view v;
    if (!look(bytes, size, &v) || v.payload_size == 0) return false;
    uint64_t bit = draw(d) % (v.payload_size * 8);
    uint8_t *hit = v.payload + bit / 8;
    bool low = (hit - v.l4) & 1;                                              /* its place in its 16-bit word */
    uint16_t before = low ? *hit : (uint16_t)(*hit << 8);
    *hit ^= (uint8_t)(1u << bit % 8);
    if (fix_checksum) repair(&v, before, low ? *hit : (uint16_t)(*hit << 8));
    return true;
}

/* Chatter of the kernels (IPv6 listener reports) is not for a WAN, and would blur the counters. */
static bool is_multicast(const uint8_t *bytes, size_t size) {
    if (size >= 20 && bytes[0] >> 4 == 4) return bytes[16] >> 4 == 14;
    if (size >= 40 && bytes[0] >> 4 == 6) return bytes[24] == 0xff;
    return true;
}

/* ---- the NAT: endpoint-independent, UDP only, at the client's end of the link ---------------------------------- */

static bool mapping_expired(const struct mapping *m, uint64_t now) {
    return nat_idle_ns > 0 && (double)(now - m->used) > nat_idle_ns;
}

static void translate_out(uint8_t *bytes, size_t size, uint64_t now) {
    struct view v;
    if (!look(bytes, size, &v) || v.protocol != 17) return;
    uint16_t inner = get16(v.l4);
    struct mapping *m = &mappings[inner];
    if (m->outer == 0 || inner_of[m->outer] != inner || memcmp(m->address, v.source, v.address_size) != 0 ||
        mapping_expired(m, now)) {
        if (m->outer != 0 && inner_of[m->outer] == inner) inner_of[m->outer] = 0;
        do {
            if (++next_outer > LAST_OUTER_PORT) next_outer = FIRST_OUTER_PORT;
        } while (next_outer == inner);  /* a translated port can always be told from the client's own */
        m->outer = (uint16_t)next_outer;
        memcpy(m->address, v.source, v.address_size);
        inner_of[m->outer] = inner;
    }
    m->used = now;                      /* RFC 4787 REQ-6: outbound traffic keeps a mapping */
    put16(v.l4, m->outer);
    repair(&v, inner, m->outer);
}

static bool translate_in(uint8_t *bytes, size_t size, uint64_t now) {
    struct view v;
    if (!look(bytes, size, &v) || v.protocol != 17) return true;
    uint16_t outer = get16(v.l4 + 2), inner = inner_of[outer];
    if (inner == 0 || mapping_expired(&mappings[inner], now)) return false;
    put16(v.l4 + 2, inner);
    repair(&v, outer, inner);
    return true;
}

/* ---- packets in flight --------------------------------------------------------------------------------------- */

static bool sooner(const struct packet *a, const struct packet *b) {
    return a->due != b->due ? a->due < b->due : a->number < b->number;
}

static void hold(struct direction *d, const uint8_t *bytes, size_t size, uint64_t due, uint64_t number) {
    struct packet *p = d->count[HELD] < HELD_MAX ? malloc(sizeof *p + size) : NULL;
    if (!p) { d->count[QUEUE_DROPPED]++; return; }
    p->due = due;
    p->number = number;
    p->size = (uint32_t)size;
    memcpy(p->bytes, bytes, size);
    size_t i = d->count[HELD]++;
    d->count[HELD_BYTES] += size;
    for (; i > 0 && sooner(p, d->heap[(i - 1) / 2]); i = (i - 1) / 2) d->heap[i] = d->heap[(i - 1) / 2];
    d->heap[i] = p;
}

static struct packet *release(struct direction *d) {
    struct packet *first = d->heap[0], *last = d->heap[--d->count[HELD]];
    size_t n = d->count[HELD], i = 0;
    d->count[HELD_BYTES] -= first->size;
    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && sooner(d->heap[child + 1], d->heap[child])) child++;
        if (!sooner(d->heap[child], last)) break;
        d->heap[i] = d->heap[child];
    }
    d->heap[i] = last;
    return first;
}

static void deliver(struct direction *d, uint8_t *bytes, size_t size, uint64_t number, uint64_t now) {
    if (d == &down && nat_on && !translate_in(bytes, size, now)) { d->count[NAT_DROPPED]++; return; }
    if (write(d->to, bytes, size) != (ssize_t)size) { d->count[UNDELIVERABLE]++; return; }
    d->count[DELIVERED]++;
    d->count[DELIVERED_BYTES] += size;
    if (number < d->last_delivered) d->count[REORDERED]++;
    else d->last_delivered = number;
}

/* When the bottleneck has sent this packet; false if its queue is full. Without a rate there is no queue. */
static bool pass_bottleneck(struct direction *d, size_t size, double now, double *departs) {
    double rate = d->set[RATE_MBIT], wait = d->free_at - now;
    *departs = now;
    if (rate <= 0) return true;
    if (wait > 0 && ((d->set[QUEUE_MS] > 0 && wait > d->set[QUEUE_MS] * 1e6) ||
                     (d->set[QUEUE_BYTES] > 0 && wait * rate / 8e3 + (double)size > d->set[QUEUE_BYTES])))
        return false;
    if (wait < -BURST_NS) d->free_at = now - BURST_NS;
    d->free_at += (double)size * 8e3 / rate;
    if (d->free_at > now) *departs = d->free_at;
    return true;
}

static void admit(struct direction *d, uint8_t *bytes, size_t size, uint64_t now) {
    if (is_multicast(bytes, size)) return;
    d->count[RECEIVED]++;
    d->count[RECEIVED_BYTES] += size;
    if (d->set[BLACKHOLE] > 0) { d->count[BLACKHOLED]++; return; }
    if (d == &up && nat_on) translate_out(bytes, size, now);
    if (d->set[MTU] > 0 && (double)size > d->set[MTU]) { d->count[TOO_BIG]++; return; }
    if (chance(d, LOSS)) { d->count[LOST]++; return; }
    double departs;
    if (!pass_bottleneck(d, size, (double)now, &departs)) { d->count[QUEUE_DROPPED]++; return; }
    if (chance(d, CORRUPT) && flip_bit(d, bytes, size, false)) d->count[CORRUPTED]++;
    if (chance(d, CORRUPT_FIXED) && flip_bit(d, bytes, size, true)) d->count[CORRUPTED]++;
    double later = d->set[DELAY_MS] * 1e6;
    if (d->set[JITTER_MS] > 0) later += d->set[JITTER_MS] * 1e6 * draw_unit(d);
    uint64_t due = (uint64_t)(departs + later);
    if (due > now) due = (due + GRID_NS - 1) / GRID_NS * GRID_NS;
    if (d->set[REORDER] <= 0 && due < d->last_due) due = d->last_due;
    if (due > d->last_due) d->last_due = due;
    bool twice = chance(d, DUPLICATE);
    uint64_t number = ++d->next_number;
    if (!twice && due <= now && d->count[HELD] == 0) { deliver(d, bytes, size, number, now); return; }
    hold(d, bytes, size, due, number);
    if (twice) { d->count[DUPLICATED]++; hold(d, bytes, size, due, number); }
}

static bool read_some(struct direction *d) {  /* false when there is no more */
    static uint8_t buffer[PACKET_MAX];
    uint64_t now = clock_ns();
    for (int i = 0; i < READ_BATCH; i++) {
        ssize_t size = read(d->from, buffer, sizeof buffer);
        if (size < 0 && (errno == EAGAIN || errno == EINTR || errno == EIO)) return false;  /* EIO: the device is down */
        if (size < 0) die("read from the TUN device");
        admit(d, buffer, (size_t)size, now);
    }
    return true;
}

/* A command applies to what is sent after it: what the devices hold already goes the old way. The bound is their
 * queue, so that a flood cannot keep a command waiting. */
static void fetch_all(struct direction *d) {
    for (int i = 0; i < DEVICE_QUEUE / READ_BATCH && read_some(d); i++) {}
}

static void deliver_due(struct direction *d, uint64_t now) {
    while (d->count[HELD] > 0 && d->heap[0]->due <= now) {
        struct packet *p = release(d);
        deliver(d, p->bytes, p->size, p->number, now);
        free(p);
    }
}

/* ---- control ------------------------------------------------------------------------------------------------- */

static bool parse_settings(char **rest, double *set) {
    for (char *name; (name = strtok_r(NULL, " ", rest));) {
        char *value = strtok_r(NULL, " ", rest), *end;
        int i = 0;
        while (i < SETTINGS && strcmp(name, setting_names[i]) != 0) i++;
        if (i == SETTINGS || !value) return false;
        set[i] = strtod(value, &end);
        if (*end || end == value) return false;
    }
    return true;
}

static void apply(struct direction *d, const double *set, uint64_t salt) {
    bool reseed = set[SEED] >= 0;
    memcpy(d->set, set, sizeof d->set);
    if (reseed) d->random = (uint64_t)set[SEED] * 2 + salt;  /* the two directions never draw alike */
    d->set[SEED] = -1;                                       /* consumed: another change must not reseed */
    if (set[RATE_MBIT] <= 0) d->free_at = 0;                 /* no queue, no backlog to remember */
    while (set[BLACKHOLE] > 0 && d->count[HELD] > 0) {       /* what is in flight vanishes too */
        free(release(d));
        d->count[BLACKHOLED]++;
    }
}

static const char *command(char *line, char *answer, size_t room) {
    char *rest, *word = strtok_r(line, " ", &rest);
    if (!word) return "error empty command";
    if (strcmp(word, "stats") == 0) {
        size_t used = (size_t)snprintf(answer, room, "ok");
        for (int i = 0; i < 2 * COUNTERS; i++)
            used += (size_t)snprintf(answer + used, room - used, " %s %llu", counter_names[i % COUNTERS],
                                     (unsigned long long)(i < COUNTERS ? &up : &down)->count[i % COUNTERS]);
        return answer;
    }
    if (strcmp(word, "rebind") == 0) {
        memset(inner_of, 0, sizeof inner_of);
        return "ok";
    }
    if (strcmp(word, "nat") == 0) {
        char *on = strtok_r(NULL, " ", &rest), *idle = strtok_r(NULL, " ", &rest);
        if (!on || !idle) return "error nat: two numbers wanted";
        nat_on = atoi(on) != 0;
        nat_idle_ns = atof(idle) * 1e6;
        return "ok";
    }
    if (strcmp(word, "set") == 0) {
        char *which = strtok_r(NULL, " ", &rest);
        bool both = which && strcmp(which, "both") == 0;
        bool go_up = which && (both || strcmp(which, "up") == 0), go_down = which && (both || strcmp(which, "down") == 0);
        if (!go_up && !go_down) return "error set: up, down or both";
        char copy[1024];
        strcpy(copy, rest);             /* no longer than the line it is the rest of */
        double wanted[2][SETTINGS];
        memcpy(wanted[0], up.set, sizeof up.set);
        memcpy(wanted[1], down.set, sizeof down.set);
        char *again = copy;
        if (!parse_settings(&rest, wanted[0]) || !parse_settings(&again, wanted[1])) return "error set: not understood";
        if (go_up) apply(&up, wanted[0], 0);
        if (go_down) apply(&down, wanted[1], 1);
        return "ok";
    }
    return "error unknown command";
}

static void serve_control(int control) {
    char line[1024], answer[4096];
    ssize_t size = recv(control, line, sizeof line - 1, MSG_TRUNC);  /* with it: the size before any cut */
    if (size < 0 && (errno == EINTR || errno == EAGAIN)) return;
    if (size <= 0) exit(0);
    bool too_long = size > (ssize_t)sizeof line - 1;
    line[too_long ? 0 : size] = 0;
    fetch_all(&up);
    fetch_all(&down);
    const char *reply = too_long ? "error command too long" : command(line, answer, sizeof answer);
    if (send(control, reply, strlen(reply), MSG_NOSIGNAL) < 0) exit(0);
}

/* ---- start --------------------------------------------------------------------------------------------------- */

static void enter(const char *netns) {
    int fd = open(netns, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || setns(fd, CLONE_NEWNET) < 0) die(netns);
    close(fd);
}

static int open_tun(const char *netns) {
    enter(netns);                       /* a TUN device is born in the namespace of the thread that opens it */
    int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    struct ifreq request = { .ifr_flags = IFF_TUN | IFF_NO_PI, .ifr_name = "wan0" };
    if (fd < 0 || ioctl(fd, TUNSETIFF, &request) < 0) die("/dev/net/tun");
    return fd;
}

static void watch(int poller, int fd) {
    struct epoll_event event = { .events = EPOLLIN, .data.fd = fd };
    if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event) < 0) die("epoll_ctl");
}

int main(int argc, char **argv) {
    if (argc != 5) { fprintf(stderr, "usage: wan CLIENT_NETNS EDGE_NETNS CONTROL_FD PARENT_PID\n"); return 2; }
    int control = atoi(argv[3]), parent = (int)syscall(SYS_pidfd_open, atoi(argv[4]), 0);
    if (parent < 0 || getppid() != atoi(argv[4])) die("the parent is gone");
    int home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    up.from = down.to = open_tun(argv[1]);
    down.from = up.to = open_tun(argv[2]);
    if (setns(home, CLONE_NEWNET) < 0) die("setns");  /* no process of the lab's own sits in its namespaces */
    up.set[SEED] = down.set[SEED] = -1;
    down.random = 1;
    if (setpriority(PRIO_PROCESS, 0, -10) < 0) perror("wan: priority left as it is");  /* busy hosts do not slow a wire */
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC), poller = epoll_create1(EPOLL_CLOEXEC);
    if (timer < 0 || poller < 0) die("timer and poller");
    int watched[] = { control, parent, timer, up.from, down.from };
    for (int i = 0; i < 5; i++) watch(poller, watched[i]);
    if (send(control, "ok", 2, MSG_NOSIGNAL) < 0) return 0;
    for (uint64_t armed = 0;;) {
        struct epoll_event events[5];
        int n = epoll_wait(poller, events, 5, -1);
        if (n < 0 && errno != EINTR) die("epoll_wait");
        for (int i = 0; i < n; i++) {
            int fd = events[i].data.fd;
            uint64_t expirations;
            if (fd == parent) return 0;
            if (fd == control) serve_control(control);
            else if (fd == up.from) read_some(&up);
            else if (fd == down.from) read_some(&down);
            else if (read(timer, &expirations, sizeof expirations) > 0) armed = 0;
        }
        uint64_t now = clock_ns(), next = UINT64_MAX;
        deliver_due(&up, now);
        deliver_due(&down, now);
        if (up.count[HELD] > 0) next = up.heap[0]->due;
        if (down.count[HELD] > 0 && down.heap[0]->due < next) next = down.heap[0]->due;
        if (next != UINT64_MAX && next != armed) {
            struct itimerspec at = { .it_value = { (time_t)(next / 1000000000), (long)(next % 1000000000) } };
            if (timerfd_settime(timer, TFD_TIMER_ABSTIME, &at, NULL) < 0) die("timerfd_settime");
            armed = next;
        }
    }
}
