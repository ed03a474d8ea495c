/*
 * Many connections with several requests in flight each, at full speed or at a rate.
 *
 * One process holds all requesting connections and waits for them with epoll; one process with one
 * connection answers. What a connection finds in one read it replaces by as many new requests in
 * one send, so that how much comes together is up to the server. Replies to a connection come in
 * the order of its requests; each is compared byte for byte, and one that is wrong, lost, doubled
 * or out of order ends the run as failed.
 *
 * At a rate (requests a second over all connections) requests leave every TICK_NS, as many as are
 * due, one for each connection in turn; those for which no connection has room leave late.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#include "process.h"
#include "raw.h"
#include "request.h"
#include "wire.h"

/* Time between two portions of requests at a rate. */
#define TICK_NS 100000ull

/* Replies between two looks at the server's CPU time: reading it costs a system call. */
#define CPU_LOOK 256u

struct requester {
    struct midge_wire wire;
    struct midge_request request; /* patched for each request and for each reply */
    uint8_t *batch;               /* own; in_flight frames */
    uint64_t sent;
    uint64_t received;
};

struct load {
    const struct midge_raw_options *options; /* borrow */
    struct requester *requesters;            /* own; options->connections */
    int epoll;                               /* own */
    uint32_t turn;                           /* connection that the next due request goes to */
    uint64_t sent;
    uint64_t received;
};

/* One stretch of requests: the warm-up, or what is measured. */
struct phase {
    uint64_t count;       /* requests; UINT64_MAX: until the server's CPU time is reached */
    uint64_t cpu_end_ns;  /* UINT64_MAX: as many as `count` */
    uint64_t begin_at_ns; /* of the schedule */
    uint64_t begin_count; /* requests of earlier phases */
    uint64_t sent_at_ns;  /* of the last request */
    uint64_t late_ns;     /* longest time by which a request left behind its schedule */
    uint32_t rate;        /* requests a second, 0 = as fast as replies come */
};

static uint32_t room(const struct load *load, const struct requester *requester)
{
    return load->options->in_flight - (uint32_t)(requester->sent - requester->received);
}

/* Requests that may leave now. */
static uint64_t due(const struct load *load, const struct phase *phase, uint64_t now_ns)
{
    const uint64_t sent = load->sent - phase->begin_count;
    uint64_t until = phase->count;

    if (phase->rate > 0) {
        const uint64_t ticks_ns = (now_ns - phase->begin_at_ns) / TICK_NS * TICK_NS;
        const uint64_t scheduled = ticks_ns * phase->rate / 1000000000ull;

        until = scheduled < until ? scheduled : until;
    }
    return until > sent ? until - sent : 0;
}

static enum midge_status send_requests(struct load *load, struct requester *requester,
                                       uint32_t count)
{
    struct midge_request *request = &requester->request;

    for (uint32_t i = 0; i < count; i++) {
        midge_request_set_number(request, requester->sent + i, false);
        memcpy(requester->batch + (size_t)i * request->frame_len, request->frame,
               request->frame_len);
    }
    if (midge_wire_send(&requester->wire, requester->batch, count * request->frame_len) != MIDGE_OK)
        return midge_request_complain(MIDGE_E_WRITE, strerror(errno), requester->sent);
    requester->sent += count;
    load->sent += count;
    return MIDGE_OK;
}

/* Send what is due, one request for each connection that has room, in turn. */
static enum midge_status send_due(struct load *load, struct phase *phase)
{
    const uint32_t connections = load->options->connections;
    const uint64_t now_ns = midge_process_now_ns();
    const uint64_t wanted = due(load, phase, now_ns);
    enum midge_status status = MIDGE_OK;
    uint32_t full_count = 0;

    if (wanted > 0 && phase->rate > 0) {
        const uint64_t due_ns = (load->sent - phase->begin_count) * 1000000000ull / phase->rate;
        const uint64_t late_ns = now_ns - phase->begin_at_ns - due_ns;

        phase->late_ns = late_ns > phase->late_ns ? late_ns : phase->late_ns;
    }
    for (uint64_t i = 0; i < wanted && full_count < connections && status == MIDGE_OK;) {
        struct requester *requester = &load->requesters[load->turn];

        load->turn = (load->turn + 1) % connections;
        if (room(load, requester) == 0) {
            full_count++;
            continue;
        }
        full_count = 0;
        status = send_requests(load, requester, 1);
        i++;
    }
    if (wanted > 0)
        phase->sent_at_ns = now_ns;
    return status;
}

/* Read once and check every reply that is complete. */
static enum midge_status take_replies(struct load *load, struct requester *requester)
{
    struct midge_wire_frame frame;
    enum midge_status status = midge_wire_receive(&requester->wire);

    if (status == MIDGE_E_EOF)
        return midge_request_complain(status, "reply lost: connection closed", requester->received);
    if (status != MIDGE_OK)
        return status;
    for (;;) {
        status = midge_wire_next(&requester->wire, &frame);
        if (status != MIDGE_OK)
            return status == MIDGE_AGAIN ? MIDGE_OK : status;
        if (requester->received == requester->sent)
            return midge_request_complain(MIDGE_E_PARSE, "a reply too many", requester->received);
        midge_request_set_number(&requester->request, requester->received, false);
        status = midge_request_check(&requester->request, &frame, requester->received);
        if (status != MIDGE_OK)
            return status;
        requester->received++;
        load->received++;
    }
}

/* Replies of one connection, and new requests in their place. */
static enum midge_status serve(struct load *load, struct phase *phase, uint32_t index)
{
    struct requester *requester = &load->requesters[index];
    const enum midge_status status = take_replies(load, requester);

    if (status != MIDGE_OK || phase->rate > 0)
        return status;
    const uint64_t left = due(load, phase, 0);
    const uint32_t free_count = room(load, requester);
    const uint32_t count = left < free_count ? (uint32_t)left : free_count;

    if (count == 0)
        return MIDGE_OK;
    phase->sent_at_ns = midge_process_now_ns();
    return send_requests(load, requester, count);
}

/* Wait for replies, or for the next tick where there is more to send. */
static enum midge_status wait_and_serve(struct load *load, struct phase *phase)
{
    struct epoll_event events[16];
    struct timespec patience = {.tv_sec = load->options->timeout_ms / 1000,
                                .tv_nsec = (long)(load->options->timeout_ms % 1000) * 1000000};
    const bool is_ticking = phase->rate > 0 && load->sent - phase->begin_count < phase->count;

    if (is_ticking) {
        const uint64_t elapsed_ns = midge_process_now_ns() - phase->begin_at_ns;

        patience = (struct timespec){.tv_nsec = (long)(TICK_NS - elapsed_ns % TICK_NS)};
    }
    const int count = epoll_pwait2(load->epoll, events, 16, &patience, NULL);
    enum midge_status status = MIDGE_OK;

    if (count < 0 && errno != EINTR)
        return midge_request_complain(MIDGE_E_SYSTEM, strerror(errno), load->received);
    if (count == 0 && !is_ticking)
        return midge_request_complain(MIDGE_AGAIN, "reply lost: nothing within the timeout",
                                      load->received);
    for (int i = 0; i < count && status == MIDGE_OK; i++)
        status = serve(load, phase, events[i].data.u32);
    return status;
}

/* Once the server has used its time, no request follows those that have left. */
static enum midge_status look_at_cpu(const struct load *load, struct phase *phase)
{
    uint64_t used_ns = 0;
    const enum midge_status status = midge_process_cpu_ns(load->options->server_pid, &used_ns);

    if (status != MIDGE_OK)
        return midge_request_complain(status, strerror(errno), load->received);
    if (used_ns >= phase->cpu_end_ns)
        phase->count = load->sent - phase->begin_count;
    return MIDGE_OK;
}

/* Send all requests of a phase and wait for their replies. */
static enum midge_status run_phase(struct load *load, struct phase *phase)
{
    uint64_t look_at = load->received + CPU_LOOK;
    enum midge_status status = MIDGE_OK;

    phase->begin_count = load->sent;
    phase->begin_at_ns = midge_process_now_ns();
    if (phase->rate == 0)
        status = send_due(load, phase); /* fills every connection */
    while (status == MIDGE_OK) {
        if (phase->rate > 0)
            status = send_due(load, phase);
        if (load->sent - phase->begin_count >= phase->count && load->received == load->sent)
            break;
        if (status == MIDGE_OK)
            status = wait_and_serve(load, phase);
        if (status == MIDGE_OK && phase->cpu_end_ns != UINT64_MAX && load->received >= look_at) {
            look_at = load->received + CPU_LOOK;
            status = look_at_cpu(load, phase);
        }
    }
    return status;
}

static void print_report(const struct midge_raw_options *options, const struct phase *phase,
                         uint64_t elapsed_ns, uint64_t server_cpu_ns)
{
    const double seconds = (double)(phase->sent_at_ns - phase->begin_at_ns) / 1e9;
    const double per_s = seconds > 0 ? (double)phase->count / seconds : 0;

    if (options->is_json) {
        printf("{\"mode\":\"req\",\"connections\":%u,\"in_flight\":%u,\"count\":%llu,"
               "\"warmup\":%u,\"size\":%u,\"errors\":0,\"elapsed_ns\":%llu,\"requests_per_s\":%.0f,"
               "\"rate\":%u,\"late_ns\":%llu,\"server_cpu_ns\":%llu}\n",
               options->connections, options->in_flight, (unsigned long long)phase->count,
               options->warmup, options->size, (unsigned long long)elapsed_ns, per_s, options->rate,
               (unsigned long long)phase->late_ns, (unsigned long long)server_cpu_ns);
        return;
    }
    printf(
        "%u connections, %u in flight each: %llu requests of %u bytes, 0 errors, %.0f a second\n",
        options->connections, options->in_flight, (unsigned long long)phase->count, options->size,
        per_s);
    if (options->server_pid != 0)
        printf("server: %.3f us of CPU time a request\n",
               (double)server_cpu_ns / (double)phase->count / 1e3);
}

static enum midge_status measure(struct load *load)
{
    const struct midge_raw_options *options = load->options;
    struct phase phase = {.count = options->warmup, .cpu_end_ns = UINT64_MAX};
    uint64_t cpu_begin_ns = 0;
    uint64_t cpu_end_ns = 0;
    enum midge_status status = run_phase(load, &phase);

    if (status == MIDGE_OK)
        status = midge_process_cpu_ns(options->server_pid, &cpu_begin_ns);
    if (status != MIDGE_OK)
        return status;
    phase =
        (struct phase){.count = options->count, .cpu_end_ns = UINT64_MAX, .rate = options->rate};
    if (options->cpu_ms > 0) {
        phase.count = UINT64_MAX;
        phase.cpu_end_ns = cpu_begin_ns + options->cpu_ms * 1000000ull;
    }
    status = run_phase(load, &phase);
    const uint64_t elapsed_ns = midge_process_now_ns() - phase.begin_at_ns;

    if (status == MIDGE_OK)
        status = midge_process_cpu_ns(options->server_pid, &cpu_end_ns);
    for (uint32_t i = 0; i < options->connections && status == MIDGE_OK; i++) {
        status = midge_wire_fence(&load->requesters[i].wire);
        if (status != MIDGE_OK)
            status = midge_request_complain(status, "no PONG after the last reply", load->received);
    }
    if (status == MIDGE_OK)
        print_report(options, &phase, elapsed_ns, cpu_end_ns - cpu_begin_ns);
    return status;
}

static enum midge_status open_requester(struct load *load, uint32_t index)
{
    const struct midge_raw_options *options = load->options;
    struct requester *requester = &load->requesters[index];
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = index};
    enum midge_status status =
        midge_wire_open(&requester->wire, &options->endpoint, false, 0, options->timeout_ms);

    if (status == MIDGE_OK)
        status = midge_request_init(&requester->request, index, options->size);
    if (status == MIDGE_OK)
        status = midge_request_subscribe(&requester->wire, index);
    if (status != MIDGE_OK)
        return status;
    requester->batch = (uint8_t *)malloc((size_t)options->in_flight * requester->request.frame_len);
    if (requester->batch == NULL)
        return midge_request_complain(MIDGE_E_MEMORY, "no memory", 0);
    if (epoll_ctl(load->epoll, EPOLL_CTL_ADD, requester->wire.fd, &event) != 0)
        return midge_request_complain(MIDGE_E_SYSTEM, strerror(errno), 0);
    return MIDGE_OK;
}

/* Start the responder, connect everything, measure, end the responder. */
static enum midge_status run(struct load *load, struct midge_wire *responder)
{
    const struct midge_raw_options *options = load->options;
    pid_t pid = 0;
    enum midge_status status =
        midge_wire_open(responder, &options->endpoint, false, 0, options->timeout_ms);

    if (status == MIDGE_OK)
        status = midge_wire_subscribe(responder, "svc");
    if (status == MIDGE_OK)
        status = midge_process_fork(&pid);
    if (status != MIDGE_OK)
        return status;
    if (pid == 0) {
        status = midge_request_respond(responder);
        _exit(status == MIDGE_E_EOF ? EXIT_SUCCESS : EXIT_FAILURE);
    }
    midge_wire_close(responder);
    for (uint32_t i = 0; i < options->connections && status == MIDGE_OK; i++)
        status = open_requester(load, i);
    if (status == MIDGE_OK)
        status = measure(load);
    if (!midge_process_end(pid) && status == MIDGE_OK)
        status = midge_request_complain(MIDGE_E_PARSE, "responder failed", load->received);
    return status;
}

enum midge_status midge_req_run(const struct midge_raw_options *options)
{
    struct midge_wire responder = {.fd = -1};
    struct load load = {.options = options, .epoll = epoll_create1(EPOLL_CLOEXEC)};
    enum midge_status status = MIDGE_E_SYSTEM;

    midge_process_be_punctual();
    load.requesters = (struct requester *)calloc(options->connections, sizeof *load.requesters);
    if (load.requesters == NULL || load.epoll < 0) {
        (void)midge_request_complain(status, "no memory or no epoll", 0);
        goto out;
    }
    for (uint32_t i = 0; i < options->connections; i++)
        load.requesters[i].wire.fd = -1;
    status = run(&load, &responder);
    midge_wire_close(&responder);
    for (uint32_t i = 0; i < options->connections; i++) {
        midge_wire_close(&load.requesters[i].wire);
        midge_request_deinit(&load.requesters[i].request);
        free(load.requesters[i].batch);
    }
out:
    free(load.requesters);
    if (load.epoll >= 0)
        (void)close(load.epoll);
    return status;
}
