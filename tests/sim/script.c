/* What the peers of a simulated broker do; see script.h. */
#include "script.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "midge/limits.h"

#define NS_PER_MS       1000000ull
#define OUT_BYTES_MAX   60000u
#define LINE_BYTES_MAX  512u
#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

static uint64_t below(struct midge_script *script, uint64_t bound)
{
    return midge_sim_random_below(script->sim, bound);
}

/* True in one of `bound` cases. */
static bool once_in(struct midge_script *script, uint64_t bound)
{
    return below(script, bound) == 0;
}

static void say(struct midge_script_peer *peer, const void *bytes, uint32_t len)
{
    if (peer->out_len + len > peer->out_cap) {
        const uint32_t cap = 2 * (peer->out_len + len);
        uint8_t *out = realloc(peer->out, cap);

        MIDGE_ASSERT(out != NULL);
        peer->out = out;
        peer->out_cap = cap;
    }
    memcpy(peer->out + peer->out_len, bytes, len);
    peer->out_len += len;
}

MIDGE_PRINTF(2, 3) static void say_line(struct midge_script_peer *peer, const char *format, ...)
{
    char line[LINE_BYTES_MAX];
    va_list arguments;
    int len;

    va_start(arguments, format);
    len = vsnprintf(line, sizeof(line), format, arguments);
    va_end(arguments);
    MIDGE_ASSERT(len >= 0 && (uint32_t)len < sizeof(line));
    say(peer, line, (uint32_t)len);
}

static const char *a_literal(struct midge_script *script)
{
    static const char *const literals[] = {
        "a.b", "a.b", "a.c", "b", "a.b.c", "x.b", "long.subject.of.five.tokens"};

    return literals[below(script, COUNT_OF(literals))];
}

static const char *a_pattern(struct midge_script *script)
{
    static const char *const patterns[] = {"a.*", "a.>", "*.b", "*", "a.*.c", "*.*", "a.b*", "a.b"};

    return once_in(script, 2) ? a_literal(script) : patterns[below(script, COUNT_OF(patterns))];
}

static const char *a_bool(struct midge_script *script)
{
    return once_in(script, 2) ? "true" : "false";
}

static void say_connect(struct midge_script *script, struct midge_script_peer *peer)
{
    const bool headers = !once_in(script, 4);
    const bool no_responders = headers ? !once_in(script, 3) : once_in(script, 20);

    peer->headers = headers;
    if (!script->options.polite && once_in(script, 40)) {
        static const char *const odd[] = {"CONNECT {}",
                                          "CONNECT",
                                          "CONNECT {\"verbose\":1}",
                                          "CONNECT {\"account\":\"A\"}",
                                          "CONNECT {\"protocol\":7}",
                                          "CONNECT []"};

        say_line(peer, "%s\r\n", odd[below(script, COUNT_OF(odd))]);
        return;
    }
    say_line(peer, "%s {\"verbose\":%s,\"pedantic\":%s,\"echo\":%s,\"protocol\":%u,",
             once_in(script, 5) ? "connect" : "CONNECT", once_in(script, 5) ? "true" : "false",
             once_in(script, 5) ? "true" : "false", once_in(script, 4) ? "false" : "true",
             once_in(script, 5) ? 0u : 1u);
    if (script->options.login || once_in(script, 8))
        say_line(peer, "\"user\":\"sim\",\"pass\":\"%s\",",
                 !script->options.polite && once_in(script, 10) ? "wrong" : "secret");
    say_line(peer, "\"headers\":%s,\"no_responders\":%s,\"name\":\"%s\"}\r\n",
             headers ? "true" : "false", no_responders ? "true" : "false", a_bool(script));
    if (!once_in(script, 3))
        say_line(peer, "PING\r\n");
}

static void say_sub(struct midge_script *script, struct midge_script_peer *peer)
{
    const uint64_t sid = below(script, 12);

    switch (below(script, 8)) {
    case 0:
        say_line(peer, "SUB _INBOX.%u.%s %llu\r\n", peer->peer, once_in(script, 2) ? "*" : ">",
                 (unsigned long long)sid);
        break;
    case 1:
    case 2:
    case 3:
        say_line(peer, "SUB %s  q%llu %llu\r\n", a_pattern(script),
                 (unsigned long long)below(script, 3), (unsigned long long)sid);
        break;
    case 4:
        if (!script->options.polite && once_in(script, 4)) {
            static const char *const odd[] = {"a..b", ".a", "a.", "a.>.b", ">.a", "a.b _sys_"};

            say_line(peer, "SUB %s %llu\r\n", odd[below(script, COUNT_OF(odd))],
                     (unsigned long long)sid);
            break;
        }
        say_line(peer, "SUB > big-sid-%llu\r\n", (unsigned long long)sid);
        break;
    default:
        say_line(peer, "SUB %s %llu\r\n", a_pattern(script), (unsigned long long)sid);
        break;
    }
}

static void say_unsub(struct midge_script *script, struct midge_script_peer *peer)
{
    const uint64_t sid = below(script, 12);

    if (once_in(script, 2))
        say_line(peer, "UNSUB %llu %llu\r\n", (unsigned long long)sid,
                 (unsigned long long)below(script, 6));
    else
        say_line(peer, "UNSUB %llu \r\n", (unsigned long long)sid);
}

static uint32_t a_payload_len(struct midge_script *script)
{
    const uint32_t max = script->options.payload_len_max;
    uint64_t len;

    switch (below(script, 16)) {
    case 0:
    case 1:
        len = 500 + below(script, 3000);
        break;
    case 2:
        len = MIDGE_COPY_LEN_MAX - 2 + below(script, 8000);
        break;
    case 3:
        len = max - below(script, 3);
        break;
    default:
        len = 12 + below(script, 60);
        break;
    }
    return len > max ? max : (uint32_t)len;
}

/* Payloads begin with who sent them and their number, so that every message is different. */
static void say_body(struct midge_script_peer *peer, uint32_t len)
{
    uint8_t *body = malloc(len + 32u);
    int head_len;

    MIDGE_ASSERT(body != NULL);
    head_len = snprintf((char *)body, 32, "%u.%u;", peer->peer, peer->seq);
    for (uint32_t i = (uint32_t)head_len; i < len; i++)
        body[i] = (uint8_t)(i * 31 + peer->seq);
    say(peer, body, len);
    free(body);
    say(peer, "\r\n", 2);
}

static void say_pub(struct midge_script *script, struct midge_script_peer *peer)
{
    const uint32_t len = a_payload_len(script);
    const char *subject = a_literal(script);
    char reply[64] = "";

    peer->seq++;
    if (once_in(script, 3))
        (void)snprintf(reply, sizeof(reply), "_INBOX.%u.%u ", peer->peer, peer->seq);
    if (!script->options.polite && once_in(script, 40)) {
        static const char *const odd_subjects[] = {"$GR.x", "a..b", "a.*", ">", "_GR_.y"};
        static const char *const odd_replies[] = {"_R_.x ", "$JS.ACK.x ", "$JS.ACK. ", "a..b "};

        if (once_in(script, 2))
            subject = odd_subjects[below(script, COUNT_OF(odd_subjects))];
        else
            (void)snprintf(reply, sizeof(reply), "%s",
                           odd_replies[below(script, COUNT_OF(odd_replies))]);
    }
    if (once_in(script, 20)) {
        say_line(peer, "PUB z.a.b.c %s0\r\n\r\n", reply);
    } else if (peer->headers && once_in(script, 4)) {
        static const char header[] = "NATS/1.0\r\nKey: value\r\n\r\n";
        const uint32_t header_len = once_in(script, 5) ? 0 : sizeof(header) - 1;

        say_line(peer, "HPUB %s %s%u %u\r\n", subject, reply, header_len,
                 header_len + (len > header_len ? len - header_len : 12));
        say(peer, header, header_len);
        say_body(peer, len > header_len ? len - header_len : 12);
    } else {
        say_line(peer, "PUB %s %s%s%u\r\n", subject, reply, once_in(script, 10) ? "00" : "", len);
        say_body(peer, len);
    }
}

/* Messages to one subject in a row, more of them than go into one run of the broker's now and then.
 */
static void say_pubs(struct midge_script *script, struct midge_script_peer *peer)
{
    static const char header[] = "NATS/1.0\r\n\r\n";
    const char *subject = a_literal(script);
    uint64_t left = 2 + below(script, once_in(script, 4) ? 100 : 8);

    for (; left > 0; left--) {
        const uint32_t header_len = peer->headers && once_in(script, 8) ? sizeof(header) - 1 : 0;
        const uint32_t len = (uint32_t)(12 + below(script, once_in(script, 20) ? 1500 : 30));

        peer->seq++;
        if (header_len > 0)
            say_line(peer, "HPUB %s %u %u\r\n%s", subject, header_len, header_len + len, header);
        else
            say_line(peer, "PUB %s %s%u\r\n", subject, once_in(script, 30) ? "r.x " : "", len);
        say_body(peer, len);
    }
}

/* A request that often finds nobody. */
static void say_request(struct midge_script *script, struct midge_script_peer *peer)
{
    static const char *const services[] = {"svc.one", "svc.two", "a.b", "x.b"};

    peer->seq++;
    say_line(peer, "PUB %s _INBOX.%u.%u 12\r\n", services[below(script, COUNT_OF(services))],
             peer->peer, peer->seq);
    say_body(peer, 12);
}

static void say_nonsense(struct midge_script *script, struct midge_script_peer *peer)
{
    static const char *const odd[] = {
        "FOO\r\n",
        "\r\n",
        "PUB a\r\n",
        "PUB a 5x\r\n",
        "PUB a 3\r\nabcdef\r\n",
        "SUB\r\n",
        "HPUB a 10 4\r\nabcd\r\n",
        "HPUB a 0 2\r\nxy\r\n",
        "-ERR 'no'\r\n",
        "MSG a 1 0\r\n\r\n",
        "INFO {}\r\n",
        "INFO nothing\r\n",
        "+OK\r\n",
        "PINGxyz\r\n",
        "  PING\r\n",
        "UNSUB\r\n",
        "PUB a 1000000000\r\n",
        "\x01\x02\x00\xff",
    };
    const uint64_t choice = below(script, COUNT_OF(odd) + 2);

    if (choice < COUNT_OF(odd)) {
        say_line(peer, "%s", odd[choice]);
    } else if (choice == COUNT_OF(odd)) {
        say_line(peer, "PUB a.b %u\r\n", script->options.payload_len_max + 1);
    } else {
        const uint32_t len = script->options.control_line_len_max + (uint32_t)below(script, 2);
        char *line = malloc(len);

        MIDGE_ASSERT(line != NULL);
        memset(line, 'l', len);
        say_line(peer, "SUB ");
        memcpy(line + len - 2, " 1", 2);
        say(peer, line, len);
        say_line(peer, "\r\n");
        free(line);
    }
}

static void speak(struct midge_script *script, struct midge_script_peer *peer)
{
    const uint64_t choice = below(script, 100);

    if (peer->fin || peer->out_len - peer->out_off > OUT_BYTES_MAX)
        return;
    if (choice < 46)
        say_pub(script, peer);
    else if (choice < 50)
        say_pubs(script, peer);
    else if (choice < 70)
        say_sub(script, peer);
    else if (choice < 77)
        say_unsub(script, peer);
    else if (choice < 84)
        say_request(script, peer);
    else if (choice < 90)
        say_line(peer, "PING\r\n");
    else if (choice < 94)
        say_line(peer, "PONG\r\n");
    else if (choice < 97)
        say_line(peer, once_in(script, 2) ? "ping\r\n" : "pOnG\r\n");
    else if (choice < 98)
        say_connect(script, peer);
    else if (!script->options.polite && once_in(script, 3))
        say_nonsense(script, peer);
}

static void connect_peer(struct midge_script *script)
{
    struct midge_script_peer *peer;
    uint32_t here_count = 0;

    for (uint32_t i = 0; i < script->peer_count; i++)
        here_count += !script->peers[i].gone;
    if (here_count >= script->options.peers_max || script->peer_count == MIDGE_SCRIPT_PEERS_MAX)
        return;
    peer = &script->peers[script->peer_count];
    *peer = (struct midge_script_peer){
        .peer = midge_sim_peer_connect(
            script->sim, script->listener_fds[below(script, script->listener_count)])};
    if (peer->peer == UINT32_MAX)
        return;
    script->peer_count++;
    if (!once_in(script, 8))
        say_connect(script, peer);
}

static void write_some(struct midge_script *script, struct midge_script_peer *peer)
{
    const uint32_t left = peer->out_len - peer->out_off;
    uint32_t len;

    if (peer->fin || left == 0)
        return;
    len = once_in(script, 2) ? left : 1 + (uint32_t)below(script, once_in(script, 3) ? 8 : left);
    if (len > left)
        len = left;
    peer->out_off += midge_sim_peer_write(script->sim, peer->peer,
                                          midge_slice_make(peer->out + peer->out_off, len));
    if (peer->out_off == peer->out_len) {
        peer->out_off = 0;
        peer->out_len = 0;
    }
}

static void read_some(struct midge_script *script, struct midge_script_peer *peer, uint32_t len)
{
    const uint32_t got = midge_sim_peer_read(script->sim, peer->peer, NULL, len);
    const enum midge_sim_peer_state state = midge_sim_peer_state(script->sim, peer->peer);

    peer->read_bytes += got;
    if (state != MIDGE_SIM_PEER_OPEN && !peer->gone) {
        peer->gone = true;
        midge_sim_peer_close(script->sim, peer->peer);
    }
}

static void leave(struct midge_script *script, struct midge_script_peer *peer)
{
    const uint64_t choice = below(script, 8);

    if (choice < 4) {
        if (!peer->fin)
            midge_sim_peer_shutdown(script->sim, peer->peer);
        peer->fin = true;
        return;
    }
    peer->gone = true;
    if (choice < 6)
        midge_sim_peer_close(script->sim, peer->peer);
    else
        midge_sim_peer_reset(script->sim, peer->peer);
}

static void move_clock(struct midge_script *script)
{
    const uint64_t choice = below(script, 100);

    if (choice < 70)
        midge_sim_advance(script->sim, below(script, 2 * NS_PER_MS));
    else if (choice < 95)
        midge_sim_advance(script->sim, below(script, 60 * NS_PER_MS));
    else
        midge_sim_advance(script->sim, below(script, script->options.jump_ns));
}

void midge_script_init(struct midge_script *script, struct midge_sim *sim,
                       struct midge_ring *const *rings, uint32_t ring_count,
                       const int *listener_fds, uint32_t listener_count,
                       const struct midge_script_options *options)
{
    memset(script, 0, sizeof(*script));
    script->sim = sim;
    script->rings = rings;
    script->ring_count = ring_count;
    script->listener_fds = listener_fds;
    script->listener_count = listener_count;
    script->options = *options;
}

void midge_script_deinit(struct midge_script *script)
{
    for (uint32_t i = 0; i < script->peer_count; i++)
        free(script->peers[i].out);
}

void midge_script_step(struct midge_script *script)
{
    struct midge_script_peer *peer;
    const uint64_t choice = below(script, 1000);

    if (choice < 40 || script->peer_count == 0) {
        connect_peer(script);
        return;
    }
    if (choice < 90) {
        move_clock(script);
        return;
    }
    if (choice < 95) {
        midge_ring_doorbell(script->rings[below(script, script->ring_count)]);
        return;
    }
    peer = &script->peers[below(script, script->peer_count)];
    if (peer->gone)
        return;
    if (choice < 500)
        speak(script, peer);
    else if (choice < 750)
        write_some(script, peer);
    else if (choice < 765)
        peer->stalled = !peer->stalled;
    else if (choice < 766 + (script->options.polite ? 0 : script->options.leave_rate))
        leave(script, peer);
    else if (!peer->stalled)
        read_some(script, peer, once_in(script, 4) ? 16 : UINT32_MAX);
}

bool midge_script_drain(struct midge_script *script)
{
    bool progress = false;

    for (uint32_t i = 0; i < script->peer_count; i++) {
        struct midge_script_peer *peer = &script->peers[i];
        const uint64_t read_before = peer->read_bytes;
        const uint32_t left_before = peer->out_len - peer->out_off;

        if (peer->gone)
            continue;
        peer->stalled = false;
        write_some(script, peer);
        read_some(script, peer, UINT32_MAX);
        progress = progress || peer->gone || peer->read_bytes != read_before ||
                   peer->out_len - peer->out_off != left_before;
    }
    return progress;
}
