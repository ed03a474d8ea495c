/* The reference broker; see reference.h. */
#include "reference.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "midge/limits.h"
#include "midge/parser.h"
#include "midge/status_peer.h"

#define NS_PER_MS 1000000ull

/* Timers of the broker fire up to one slot of 16.8 ms late; two of them and a turn. */
#define TIMER_LATE_NS (40 * NS_PER_MS)

/* A closing connection gets at most this long to send what it owes. */
#define FLUSH_NS_MAX (5000 * NS_PER_MS)

/* And at most this long after the broker was told to stop. */
#define FLUSH_STOP_NS_MAX (1000 * NS_PER_MS)

/* Bytes behind the control line after which a payload is told from others: `31.12345;`. */
#define SHOWN_OF_PAYLOAD_MIN 10u

static const char NO_MORE_SUBS[] = "-ERR 'maximum subscriptions exceeded'\r\n";

#define TARGETS_MAX 256u
#define SHOWN_MAX   96u

struct ref_conn;

struct ref_sub {
    struct ref_sub *next; /* of the connection, in the order of SUB */
    struct ref_conn *conn;
    struct midge_slice subject; /* owned */
    struct midge_slice queue;   /* owned */
    struct midge_slice sid;     /* owned */
    uint64_t delivered;
    uint32_t max;
    bool live;
};

struct ref_conn {
    uint32_t peer;
    uint32_t shard;      /* the one that reads it; UINT32_MAX = it is on its way to another one */
    uint64_t arrived_ns; /* at that one; its timers begin there */
    bool opened;
    bool open;       /* its input is parsed */
    bool refusing;   /* nothing is appended any more */
    bool too_slow;   /* went over max_pending: closed when its shard looks */
    bool maybe_slow; /* perhaps so, and nothing tells in which order members were asked */
    bool guessed;    /* nothing told which of several connections got a message: what it owes may be
                        wrong */
    bool hard;       /* what is pending may be thrown away */
    bool close_seen;
    bool shut;
    bool closed;
    bool registered;
    bool connected;
    bool must_connect;
    bool first_pong_sent;
    enum midge_status status;
    enum midge_status ending; /* its shard is asked to close it for this reason; OK = it is not */
    uint32_t due_turns;       /* that its shard has ended since it is to be closed */
    uint32_t late_turns;      /* … since its write deadline is over */
    uint64_t late_told_ns;    /* when its shard had been told of the stall, and set a timer */
    uint64_t cid;
    char ip[48];
    struct midge_connect connect;
    bool verbose;
    bool pedantic;
    bool echo;
    bool no_responders;
    bool headers;
    struct midge_parser parser;
    uint8_t *line;
    struct ref_sub *subs;
    uint32_t sub_count;
    uint32_t dead_count; /* of them: reached their max, still in the index */

    /* A message of which bytes are missing. */
    struct midge_op incoming;
    uint8_t *incoming_text;
    uint8_t *incoming_body;
    uint32_t incoming_len;

    /* Output. */
    struct midge_slice output; /* of the whole run */
    uint64_t end_slice;        /* slice in which it began to refuse */
    uint64_t end_appended;     /* bytes appended by then */
    uint64_t appended;
    uint64_t sent;
    uint64_t pending;
    uint64_t stalled_at_ns;
    uint64_t stall_mark;
    uint64_t closed_at_ns; /* when it began to close */
    uint64_t delivered;    /* deliveries that lie wholly in the output */

    /* Clock. */
    uint64_t ping_from_ns; /* no PING before */
    uint64_t auth_from_ns;
    uint32_t pings_out;
};

struct midge_ref {
    struct midge_ref_options options;
    struct midge_ref_stats stats;
    struct ref_conn *conns; /* by peer */
    uint32_t conn_count;
    uint32_t registered_count;
    uint64_t next_cid;
    uint64_t slice;
    uint32_t shard; /* that runs */
    uint64_t now_ns;
    uint64_t stopped_at_ns; /* 0 = it runs */
    bool used_kept;         /* in this turn, at its end: what that asks for is done in the next */
    bool lost;              /* what is in the index left no trace: no more is judged */
    char failure[1024];
};

/* One message on its way. */
struct ref_msg {
    struct ref_conn *conn;
    struct midge_slice subject;
    struct midge_slice reply;
    struct midge_slice header_text;
    struct midge_slice size_text;
    struct midge_slice body;
    uint32_t header_len;
    uint32_t appended; /* deliveries */
    bool unsure;       /* perhaps one more */
};

/* A delivery that is due: one subscription, and the bytes it must be sent. */
struct ref_frame {
    struct ref_sub *sub;
    uint8_t *bytes; /* owned */
    uint32_t len;
    bool done;
};

struct ref_frames {
    struct ref_frame items[TARGETS_MAX];
    uint32_t count;
};

MIDGE_PRINTF(2, 3) static bool fail(struct midge_ref *ref, const char *format, ...)
{
    va_list arguments;

    if (ref->failure[0] != '\0' || ref->lost)
        return false;
    va_start(arguments, format);
    (void)vsnprintf(ref->failure, sizeof(ref->failure), format, arguments);
    va_end(arguments);
    return false;
}

/* Bytes as text, cut to what a line can show. */
static void show(char out[4 * SHOWN_MAX + 4], struct midge_slice bytes)
{
    uint32_t at = 0;
    const uint32_t len = bytes.len < SHOWN_MAX ? bytes.len : SHOWN_MAX;

    for (uint32_t i = 0; i < len; i++) {
        const uint8_t byte = bytes.base[i];

        if (byte == '\r' || byte == '\n')
            at += (uint32_t)snprintf(out + at, 5, byte == '\r' ? "\\r" : "\\n");
        else if (byte < ' ' || byte > '~')
            at += (uint32_t)snprintf(out + at, 5, "\\x%02x", byte);
        else
            out[at++] = (char)byte;
    }
    (void)snprintf(out + at, 4, bytes.len > len ? "..." : "");
}

static struct midge_slice copy(struct midge_slice bytes)
{
    uint8_t *base = malloc(bytes.len + 1u);

    MIDGE_ASSERT(base != NULL);
    if (bytes.len != 0)
        memcpy(base, bytes.base, bytes.len);
    return midge_slice_make(base, bytes.len);
}

static void free_slice(struct midge_slice bytes)
{
    free((void *)(uintptr_t)bytes.base);
}

/* ---- subjects ---- */

/* The first token; `rest` is what is behind its dot, or has a NULL base behind the last one. */
static struct midge_slice first_token(struct midge_slice subject, struct midge_slice *rest)
{
    for (uint32_t i = 0; i < subject.len; i++) {
        if (subject.base[i] == '.') {
            *rest = midge_slice_make(subject.base + i + 1, subject.len - i - 1);
            return midge_slice_make(subject.base, i);
        }
    }
    *rest = midge_slice_make(NULL, 0);
    return subject;
}

static bool is_text(struct midge_slice slice, const char *text)
{
    return midge_slice_equal(slice, midge_slice_text(text));
}

static bool has_empty_token(struct midge_slice subject)
{
    do {
        if (first_token(subject, &subject).len == 0)
            return true;
    } while (subject.base != NULL);
    return false;
}

static bool is_valid_pattern(struct midge_slice pattern)
{
    if (has_empty_token(pattern))
        return false;
    do {
        const bool is_rest = is_text(first_token(pattern, &pattern), ">");

        if (is_rest && pattern.base != NULL)
            return false;
    } while (pattern.base != NULL);
    return true;
}

static bool has_wildcard_token(struct midge_slice subject)
{
    do {
        const struct midge_slice token = first_token(subject, &subject);

        if (is_text(token, "*") || is_text(token, ">"))
            return true;
    } while (subject.base != NULL);
    return false;
}

static uint32_t token_count(struct midge_slice subject)
{
    uint32_t count = 0;

    do {
        (void)first_token(subject, &subject);
        count++;
    } while (subject.base != NULL);
    return count;
}

static bool matches(struct midge_slice pattern, struct midge_slice subject)
{
    if (has_empty_token(subject))
        return false;
    while (pattern.base != NULL && subject.base != NULL) {
        const struct midge_slice want = first_token(pattern, &pattern);
        const struct midge_slice have = first_token(subject, &subject);

        if (is_text(want, ">"))
            return true;
        if (!is_text(want, "*") && !midge_slice_equal(want, have))
            return false;
    }
    return pattern.base == NULL && subject.base == NULL;
}

/* ---- output ---- */

/* What was sent at the place where the next appended byte belongs; len 0 = the run ended before. */
static struct midge_slice output_left(const struct ref_conn *conn)
{
    if (conn->appended >= conn->output.len)
        return midge_slice_make(NULL, 0);
    return midge_slice_make(conn->output.base + conn->appended,
                            conn->output.len - (uint32_t)conn->appended);
}

/* True if the bytes, or as many of them as were ever sent, come next. */
static bool comes_next(const struct ref_conn *conn, const uint8_t *bytes, uint32_t len)
{
    const struct midge_slice left = output_left(conn);

    return memcmp(left.base == NULL ? bytes : left.base, bytes, left.len < len ? left.len : len) ==
           0;
}

/* True if all of the bytes come next. */
static bool comes_wholly(const struct ref_conn *conn, const uint8_t *bytes, uint32_t len)
{
    return output_left(conn).len >= len && comes_next(conn, bytes, len);
}

/* True if the bytes were appended next, for all that is known: where the run was cut, of what was
 * appended but never sent only the length is known, and behind a guess not even that. */
static bool can_take(const struct ref_conn *conn, const uint8_t *bytes, uint32_t len)
{
    if (conn->guessed && output_left(conn).len == 0)
        return true;
    return conn->appended + len <= conn->end_appended && comes_next(conn, bytes, len);
}

static bool is_over(const struct midge_ref *ref, const struct ref_conn *conn, uint64_t len)
{
    return conn->pending + len > ref->options.pending_bytes_max;
}

static bool may_refuse(const struct midge_ref *ref, const struct ref_conn *conn, uint64_t len)
{
    return is_over(ref, conn, len) || conn->maybe_slow || conn->guessed;
}

/* True if it begins to refuse in this slice, and nothing is appended to it any more. */
static bool ends_here(const struct midge_ref *ref, const struct ref_conn *conn)
{
    return conn->end_slice == ref->slice && conn->appended == conn->end_appended;
}

static void refuse(struct ref_conn *conn)
{
    conn->refusing = true;
    conn->too_slow = true;
}

static void count_appended(struct ref_conn *conn, uint32_t len)
{
    conn->appended += len;
    conn->pending += len;
}

static bool fail_sent_over(struct midge_ref *ref, const struct ref_conn *conn)
{
    return fail(ref, "peer %u was sent byte %llu though %llu bytes were pending", conn->peer,
                (unsigned long long)conn->appended, (unsigned long long)conn->pending);
}

/* Append bytes of the broker's own. */
static bool append(struct midge_ref *ref, struct ref_conn *conn, struct midge_slice bytes)
{
    char want[4 * SHOWN_MAX + 4];
    char have[4 * SHOWN_MAX + 4];

    if (conn->refusing)
        return true;
    if (can_take(conn, bytes.base, bytes.len)) {
        if (is_over(ref, conn, bytes.len) && !conn->guessed)
            return fail_sent_over(ref, conn);
        count_appended(conn, bytes.len);
        return true;
    }
    if (may_refuse(ref, conn, bytes.len)) {
        refuse(conn);
        return true;
    }
    show(want, bytes);
    show(have, output_left(conn));
    return fail(ref, "peer %u, output byte %llu\n  expected: %s\n  sent:     %s", conn->peer,
                (unsigned long long)conn->appended, want, have);
}

static bool append_text(struct midge_ref *ref, struct ref_conn *conn, const char *text)
{
    return append(ref, conn, midge_slice_text(text));
}

static bool append_error(struct midge_ref *ref, struct ref_conn *conn, const char *head,
                         struct midge_slice quoted, const char *tail)
{
    const uint32_t head_len = (uint32_t)strlen(head);
    const uint32_t tail_len = (uint32_t)strlen(tail);
    const uint32_t len = 6 + head_len + quoted.len + tail_len + 3;
    uint8_t *line = malloc(len);
    bool good;

    MIDGE_ASSERT(line != NULL);
    memcpy(line, "-ERR '", 6);
    memcpy(line + 6, head, head_len);
    if (quoted.len != 0)
        memcpy(line + 6 + head_len, quoted.base, quoted.len);
    memcpy(line + 6 + head_len + quoted.len, tail, tail_len);
    memcpy(line + len - 3, "'\r\n", 3);
    good = append(ref, conn, midge_slice_make(line, len));
    free(line);
    return good;
}

static bool append_info(struct midge_ref *ref, struct ref_conn *conn, bool connect_info)
{
    struct midge_info info = ref->options.info;
    uint8_t line[MIDGE_INFO_LEN_MAX];

    info.client_ip = conn->ip;
    info.client_id = conn->cid;
    info.connect_info = connect_info;
    return append(ref, conn, midge_slice_make(line, midge_info_encode(line, sizeof(line), &info)));
}

/* ---- closing ---- */

static bool is_hard(enum midge_status status)
{
    return status == MIDGE_E_READ || status == MIDGE_E_WRITE || status == MIDGE_E_SLOW_PENDING ||
           status == MIDGE_E_SLOW_DEADLINE || status == MIDGE_E_MEMORY;
}

static bool close_conn(struct midge_ref *ref, struct ref_conn *conn, enum midge_status status)
{
    bool good = true;

    if (!conn->open && is_hard(status) && !conn->hard)
        conn->status = status; /* what is hard goes before what was to be flushed first */
    if (is_hard(status))
        conn->hard = true;
    if (!conn->open)
        return true;
    conn->open = false;
    conn->status = status;
    conn->closed_at_ns = ref->now_ns;
    ref->stats.slow_pending += status == MIDGE_E_SLOW_PENDING;
    ref->stats.slow_deadline += status == MIDGE_E_SLOW_DEADLINE;
    ref->stats.stale += status == MIDGE_E_STALE;
    ref->stats.auth_errors += status == MIDGE_E_AUTH || status == MIDGE_E_AUTH_TIMEOUT;
    if (midge_status_text(status)[0] != '\0')
        good = append_error(ref, conn, midge_status_text(status), midge_slice_make(NULL, 0), "");
    conn->refusing = true;
    return good;
}

/* ---- subscriptions ---- */

static void free_sub(struct ref_sub *sub)
{
    free_slice(sub->subject);
    free_slice(sub->queue);
    free_slice(sub->sid);
    free(sub);
}

/* Take subscriptions out of the index: all of them, or those that reached their max. */
static void drop_subs(struct ref_conn *conn, bool all)
{
    struct ref_sub **link = &conn->subs;

    while (*link != NULL) {
        struct ref_sub *sub = *link;

        if (!all && sub->live) {
            link = &sub->next;
            continue;
        }
        *link = sub->next;
        conn->sub_count--;
        conn->dead_count -= !sub->live;
        free_sub(sub);
    }
}

static struct ref_sub *find_sub(const struct ref_conn *conn, struct midge_slice sid)
{
    struct ref_sub *sub = conn->subs;

    while (sub != NULL && !midge_slice_equal(sub->sid, sid))
        sub = sub->next;
    return sub;
}

static void add_sub(struct ref_conn *conn, const struct midge_op *op)
{
    struct ref_sub **link = &conn->subs;
    struct ref_sub *sub = calloc(1, sizeof(*sub));

    MIDGE_ASSERT(sub != NULL);
    sub->conn = conn;
    sub->subject = copy(op->subject);
    sub->queue = copy(op->queue);
    sub->sid = copy(op->sid);
    sub->live = true;
    while (*link != NULL)
        link = &(*link)->next;
    *link = sub;
    conn->sub_count++;
}

/* The broker may refuse for lack of memory. Where its answer could be read that way, this SUB or
 * a later one was refused, and no more is known of the index. */
static void look_for_refusal(struct midge_ref *ref, const struct ref_conn *conn)
{
    if (!ref->options.memory_limited)
        return;
    if (conn->refusing)
        ref->stats.exact = false; /* nothing is delivered to it, but counted as refused perhaps */
    else if (can_take(conn, (const uint8_t *)NO_MORE_SUBS, sizeof(NO_MORE_SUBS) - 1))
        ref->lost = true;
}

static bool on_sub(struct midge_ref *ref, struct ref_conn *conn, const struct midge_op *op)
{
    const struct midge_ref_options *options = &ref->options;
    const char *head = "Permissions Violation for Subscription to \"";

    drop_subs(conn, false);
    if (is_text(op->queue, "_sys_"))
        return append_error(ref, conn, head, op->subject, "\" using queue \"_sys_\"");
    if (options->sub_tokens_max != 0 && token_count(op->subject) > options->sub_tokens_max)
        return append_error(ref, conn, head, op->subject, "\", too many tokens");
    if (options->subs_max != 0 && conn->sub_count >= options->subs_max)
        return append_text(ref, conn, NO_MORE_SUBS);
    look_for_refusal(ref, conn);
    if (find_sub(conn, op->sid) == NULL) {
        if (!is_valid_pattern(op->subject))
            return append_text(ref, conn, "-ERR 'Invalid Subject'\r\n");
        add_sub(conn, op);
    }
    return !conn->verbose || append_text(ref, conn, "+OK\r\n");
}

static bool on_unsub(struct midge_ref *ref, struct ref_conn *conn, const struct midge_op *op)
{
    struct ref_sub *sub;

    drop_subs(conn, false);
    sub = find_sub(conn, op->sid);
    if (sub != NULL) {
        if (op->max > sub->delivered) {
            sub->max = op->max;
        } else {
            sub->live = false;
            conn->dead_count++;
            drop_subs(conn, false);
        }
    }
    return !conn->verbose || append_text(ref, conn, "+OK\r\n");
}

/* ---- delivery ---- */

/* The bytes that this subscription is due. */
static void make_frame(const struct ref_msg *msg, struct ref_sub *sub, struct ref_frame *frame)
{
    const bool with_header = msg->header_len != 0 && sub->conn->headers;
    const uint32_t skip = with_header ? 0 : msg->header_len;
    const uint32_t body_len = msg->body.len - skip;
    const uint32_t cap = 64 + msg->subject.len + msg->reply.len + sub->sid.len + 20 + msg->body.len;
    char digits[16];
    struct midge_slice size = msg->size_text;
    uint8_t *at = malloc(cap);

    MIDGE_ASSERT(at != NULL);
    *frame = (struct ref_frame){.sub = sub, .bytes = at};
    if (skip != 0) {
        (void)snprintf(digits, sizeof(digits), "%u", body_len);
        size = midge_slice_text(digits);
    }
    at += snprintf((char *)at, cap, with_header ? "HMSG " : "MSG ");
    const struct midge_slice words[] = {msg->subject, sub->sid, msg->reply,
                                        with_header ? msg->header_text : midge_slice_make(NULL, 0),
                                        size};
    for (uint32_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
        if (words[i].len == 0)
            continue;
        memcpy(at, words[i].base, words[i].len);
        at += words[i].len;
        *at++ = ' ';
    }
    memcpy(at - 1, "\r\n", 2);
    at += 1;
    if (body_len != 0)
        memcpy(at, msg->body.base + skip, body_len);
    memcpy(at + body_len, "\r\n", 2);
    frame->len = (uint32_t)(at + body_len + 2 - frame->bytes);
}

static void free_frames(struct ref_frames *frames)
{
    for (uint32_t i = 0; i < frames->count; i++)
        free(frames->items[i].bytes);
    frames->count = 0;
}

/* The broker has appended this frame. */
static void take_frame(struct midge_ref *ref, struct ref_msg *msg, struct ref_frame *frame)
{
    struct ref_sub *sub = frame->sub;
    struct ref_conn *conn = sub->conn;
    const bool unknown = conn->guessed && output_left(conn).len == 0;

    if (comes_wholly(conn, frame->bytes, frame->len))
        conn->delivered++;
    /* Behind a guess the connection may have been full, or the subscription at its max. */
    if (unknown && (conn->end_slice == ref->slice || sub->max != 0))
        msg->unsure = true;
    else
        msg->appended++;
    ref->stats.exact = ref->stats.exact && !unknown;
    count_appended(conn, frame->len);
    frame->done = true;
    ref->stats.matched++;
    ref->stats.out_msgs++;
    /* Headers count even where they are stripped. Source: nats-server v2.15.2, client.go:5405. */
    ref->stats.out_bytes += msg->body.len;
    sub->delivered++;
    if (sub->max == 0 || sub->delivered < sub->max || unknown)
        return;
    sub->live = false;
    conn->dead_count++;
}

/* One of several frames that a connection is due in any order: the one that was sent next, or any
 * when nothing was sent any more. NULL if another thing was sent. */
static struct ref_frame *choose_frame(const struct ref_conn *conn, struct ref_frames *frames)
{
    struct ref_frame *partly = NULL;

    for (uint32_t i = 0; i < frames->count; i++) {
        struct ref_frame *frame = &frames->items[i];

        if (frame->done || frame->sub->conn != conn)
            continue;
        if (comes_wholly(conn, frame->bytes, frame->len))
            return frame;
        if (partly == NULL && can_take(conn, frame->bytes, frame->len))
            partly = frame;
    }
    return partly;
}

static bool fail_frames(struct midge_ref *ref, const struct ref_conn *conn,
                        const struct ref_frames *frames)
{
    char want[4 * SHOWN_MAX + 4] = "";
    char have[4 * SHOWN_MAX + 4];

    for (uint32_t i = 0; i < frames->count; i++)
        if (!frames->items[i].done && frames->items[i].sub->conn == conn)
            show(want, midge_slice_make(frames->items[i].bytes, frames->items[i].len));
    show(have, output_left(conn));
    return fail(ref, "peer %u, output byte %llu\n  expected: %s\n  sent:     %s", conn->peer,
                (unsigned long long)conn->appended, want, have);
}

/* True if the connection had no room for one of the frames that are left. */
static bool may_refuse_any(const struct midge_ref *ref, const struct ref_frames *frames)
{
    for (uint32_t i = 0; i < frames->count; i++)
        if (!frames->items[i].done &&
            may_refuse(ref, frames->items[i].sub->conn, frames->items[i].len))
            return true;
    return false;
}

/* All frames that one connection is due: appended, or refused for being too slow. `others`: it has
 * more subscriptions that match. */
static bool deliver_plain(struct midge_ref *ref, struct ref_msg *msg, struct ref_conn *conn,
                          struct ref_frames *frames, bool others)
{
    for (uint32_t left = frames->count; left != 0; left--) {
        struct ref_frame *frame = choose_frame(conn, frames);

        if (frame != NULL) {
            if (is_over(ref, conn, frame->len) && !conn->guessed)
                return fail_sent_over(ref, conn);
            take_frame(ref, msg, frame);
            continue;
        }
        /* The first ones were chosen with only their total length known: others may have come
         * first. */
        if (!may_refuse_any(ref, frames) &&
            (left == frames->count || conn->end_slice != ref->slice))
            return fail_frames(ref, conn, frames);
        ref->stats.matched += left;
        ref->stats.dropped_slow++;
        ref->stats.dropped_closing += left - 1;
        /* Which of several did not fit depends on their order, and so does whether a subscription
         * that is no target any more is counted as refused. */
        ref->stats.exact = ref->stats.exact && frames->count == 1 && !others && !conn->maybe_slow &&
                           !conn->guessed;
        conn->guessed = conn->guessed || frames->count > 1;
        refuse(conn);
        return true;
    }
    return true;
}

/* Everything that matches by a plain subscription, connection by connection. */
static bool deliver_to_plain(struct midge_ref *ref, struct ref_msg *msg, bool *interest)
{
    struct ref_frames frames = {0};
    bool good = true;

    for (uint32_t i = 0; i < ref->conn_count && good; i++) {
        struct ref_conn *conn = &ref->conns[i];
        bool others = false;

        for (struct ref_sub *sub = conn->subs; sub != NULL; sub = sub->next) {
            if (!matches(sub->subject, msg->subject))
                continue;
            *interest = true;
            if (sub->queue.len != 0)
                continue;
            if (conn->refusing) {
                ref->stats.matched++;
                ref->stats.dropped_closing++;
            } else if (sub->live && (conn != msg->conn || conn->echo)) {
                MIDGE_ASSERT(frames.count < TARGETS_MAX);
                make_frame(msg, sub, &frames.items[frames.count++]);
            } else {
                others = true;
            }
        }
        good = deliver_plain(ref, msg, conn, &frames, others);
        free_frames(&frames);
    }
    return good;
}

/* Members of the queue groups that match. Frames of one group have the same queue name. */
struct ref_groups {
    struct ref_frames frames;
    struct midge_slice names[TARGETS_MAX];
    bool refused[TARGETS_MAX]; /* a member is closing */
    bool done[TARGETS_MAX];
    uint32_t count;
};

static uint32_t group_of(struct ref_groups *groups, struct midge_slice name)
{
    uint32_t i = 0;

    while (i < groups->count && !midge_slice_equal(groups->names[i], name))
        i++;
    if (i == groups->count) {
        MIDGE_ASSERT(groups->count < TARGETS_MAX);
        groups->names[groups->count++] = name;
    }
    return i;
}

static void collect_groups(struct midge_ref *ref, const struct ref_msg *msg,
                           struct ref_groups *groups)
{
    for (uint32_t i = 0; i < ref->conn_count; i++) {
        struct ref_conn *conn = &ref->conns[i];

        for (struct ref_sub *sub = conn->subs; sub != NULL; sub = sub->next) {
            uint32_t group;

            if (sub->queue.len == 0 || !matches(sub->subject, msg->subject))
                continue;
            group = group_of(groups, sub->queue);
            if (conn->refusing) {
                groups->refused[group] = true;
            } else if (sub->live && (conn != msg->conn || conn->echo)) {
                MIDGE_ASSERT(groups->frames.count < TARGETS_MAX);
                make_frame(msg, sub, &groups->frames.items[groups->frames.count++]);
            }
        }
    }
}

static bool in_group(const struct ref_groups *groups, uint32_t group, uint32_t frame)
{
    return midge_slice_equal(groups->frames.items[frame].sub->queue, groups->names[group]);
}

/* Members that were asked before the winner, perhaps, and were found too slow. */
static void note_maybe_slow(struct midge_ref *ref, struct ref_groups *groups)
{
    for (uint32_t i = 0; i < groups->frames.count; i++) {
        const struct ref_frame *frame = &groups->frames.items[i];
        struct ref_conn *conn = frame->sub->conn;

        if (frame->done || conn->refusing || !may_refuse(ref, conn, frame->len) ||
            !ends_here(ref, conn))
            continue;
        conn->maybe_slow = true;
        ref->stats.exact = false;
    }
}

/* Groups whose winner shows in what was sent next. One delivery may uncover another behind it. */
static void settle_seen_groups(struct midge_ref *ref, struct ref_msg *msg,
                               struct ref_groups *groups)
{
    bool progress = true;

    while (progress) {
        progress = false;
        for (uint32_t i = 0; i < groups->frames.count; i++) {
            struct ref_frame *frame = &groups->frames.items[i];
            const uint32_t group = group_of(groups, frame->sub->queue);

            if (groups->done[group] || !comes_wholly(frame->sub->conn, frame->bytes, frame->len))
                continue;
            take_frame(ref, msg, frame);
            groups->done[group] = true;
            progress = true;
        }
    }
}

/* Members of a group whose message was never wholly sent to anybody. */
struct ref_hidden {
    struct ref_frame *winner; /* of those that can have it, the one to which most of it was sent */
    uint32_t can_count;       /* can have it in what was never sent */
    uint32_t begun_count;     /* of these, so many were sent the first bytes */
    uint32_t told_count;      /* … and enough of them to know */
    uint32_t room_count;      /* have room for it */
    uint32_t sure_count;      /* of these, so many for certain */
    uint32_t member_count;
};

/* True if what was sent of the frame tells it from any other: payloads begin with peer and number.
 */
static bool is_told(const struct ref_frame *frame)
{
    const uint32_t left = output_left(frame->sub->conn).len;
    const uint8_t *end = memchr(frame->bytes, '\n', frame->len);

    return end != NULL && left >= (uint32_t)(end - frame->bytes) + SHOWN_OF_PAYLOAD_MIN;
}

static struct ref_hidden look_at_members(struct midge_ref *ref, struct ref_groups *groups,
                                         uint32_t group)
{
    struct ref_hidden hidden = {0};

    for (uint32_t i = 0; i < groups->frames.count; i++) {
        struct ref_frame *frame = &groups->frames.items[i];
        const struct ref_conn *conn = frame->sub->conn;
        const struct midge_slice left = output_left(conn);

        if (!in_group(groups, group, i))
            continue;
        hidden.member_count++;
        /* With several groups the order in which they fill an outbox leaves no trace. */
        if (is_over(ref, conn, frame->len) && groups->count == 1 && !conn->guessed)
            continue;
        hidden.room_count++;
        hidden.sure_count += !may_refuse(ref, conn, frame->len);
        if (!can_take(conn, frame->bytes, frame->len))
            continue;
        hidden.can_count++;
        hidden.begun_count += left.len != 0;
        hidden.told_count += is_told(frame);
        if (hidden.winner == NULL || left.len > output_left(hidden.winner->sub->conn).len)
            hidden.winner = frame;
    }
    return hidden;
}

/* No member took the message: each was found too slow, and is closed for it. */
static bool refuse_group(struct midge_ref *ref, struct ref_groups *groups, uint32_t group,
                         const struct ref_hidden *hidden)
{
    bool all_end = true;

    for (uint32_t i = 0; i < groups->frames.count; i++) {
        struct ref_conn *conn = groups->frames.items[i].sub->conn;

        if (!in_group(groups, group, i))
            continue;
        if (ends_here(ref, conn))
            refuse(conn);
        else
            all_end = false;
    }
    ref->stats.matched++;
    ref->stats.dropped_slow++;
    ref->stats.exact = ref->stats.exact && hidden->member_count == 1 && hidden->room_count == 0 &&
                       !groups->refused[group];
    return all_end || groups->count > 1 || hidden->room_count != 0 ||
           fail(ref, "a message for queue group %.*s went to nobody, and a member stays open",
                (int)groups->names[group].len, groups->names[group].base);
}

static uint32_t frame_count_of(const struct ref_groups *groups, const struct ref_conn *conn)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < groups->frames.count; i++)
        count += groups->frames.items[i].sub->conn == conn;
    return count;
}

/* A group whose message was never wholly sent to anybody. */
static bool settle_hidden_group(struct midge_ref *ref, struct ref_msg *msg,
                                struct ref_groups *groups, uint32_t group)
{
    const struct ref_hidden hidden = look_at_members(ref, groups, group);

    if (hidden.member_count == 0) {
        ref->stats.matched += groups->refused[group];
        ref->stats.dropped_closing += groups->refused[group];
        return true;
    }
    if (hidden.can_count == 0) {
        if (hidden.sure_count != 0)
            return fail(ref, "a message for queue group %.*s went to no member",
                        (int)groups->names[group].len, groups->names[group].base);
        msg->unsure = hidden.room_count != 0;
        return refuse_group(ref, groups, group, &hidden);
    }
    /* Two of its subscriptions compete for the same room: in which order does not show. */
    if (frame_count_of(groups, hidden.winner->sub->conn) > 1)
        hidden.winner->sub->conn->guessed = true;
    if (hidden.can_count > 1 && hidden.told_count != 1) {
        for (uint32_t i = 0; i < groups->frames.count; i++) {
            const struct ref_frame *frame = &groups->frames.items[i];

            if (in_group(groups, group, i) && can_take(frame->sub->conn, frame->bytes, frame->len))
                frame->sub->conn->guessed = true;
        }
    }
    ref->stats.exact = ref->stats.exact && !hidden.winner->sub->conn->guessed;
    take_frame(ref, msg, hidden.winner);
    return true;
}

static bool deliver_to_queues(struct midge_ref *ref, struct ref_msg *msg)
{
    struct ref_groups *groups = calloc(1, sizeof(*groups));
    bool good = true;

    MIDGE_ASSERT(groups != NULL);
    collect_groups(ref, msg, groups);
    settle_seen_groups(ref, msg, groups);
    /* First those that were sent in part, since others may lie behind them; then those that
     * somebody can have, since they may leave no room for the rest. */
    for (uint32_t pass = 0; pass < 3; pass++) {
        for (uint32_t group = 0; group < groups->count && good; group++) {
            const struct ref_hidden hidden = look_at_members(ref, groups, group);

            if (groups->done[group] || (pass == 0 && hidden.begun_count == 0) ||
                (pass == 1 && hidden.can_count == 0))
                continue;
            groups->done[group] = true;
            good = settle_hidden_group(ref, msg, groups, group);
        }
    }
    note_maybe_slow(ref, groups);
    free_frames(&groups->frames);
    free(groups);
    return good;
}

/* The 503 of a request that nobody took: to one plain subscription of the requester that matches
 * the reply subject. */
static bool no_responders(struct midge_ref *ref, struct ref_msg *msg)
{
    struct ref_conn *conn = msg->conn;
    const uint32_t header_len = 32 + msg->subject.len;
    const uint32_t cap = 2 * msg->reply.len + msg->subject.len + 256;
    uint8_t *partly = malloc(2 * cap);
    uint8_t *bytes = partly + cap;
    uint32_t partly_len = 0;
    bool wholly = false;
    bool guess = false;
    bool any = false;

    MIDGE_ASSERT(partly != NULL);
    for (struct ref_sub *sub = conn->subs; sub != NULL && !wholly; sub = sub->next) {
        uint32_t len;

        if (sub->queue.len != 0 || !sub->live || conn->refusing ||
            !matches(sub->subject, msg->reply) || sub->sid.len > 64)
            continue;
        len = (uint32_t)snprintf(
            (char *)bytes, cap,
            "HMSG %.*s %.*s %u %u\r\nNATS/1.0 503\r\nNats-Subject: %.*s\r\n\r\n\r\n",
            (int)msg->reply.len, msg->reply.base, (int)sub->sid.len, sub->sid.base, header_len,
            header_len, (int)msg->subject.len, msg->subject.base);
        any = any || !may_refuse(ref, conn, len);
        wholly = comes_wholly(conn, bytes, len);
        /* Which of several subscriptions got it does not show, and their sids differ in length. */
        guess = guess || (!wholly && partly_len != 0 && can_take(conn, bytes, len));
        if (wholly || (partly_len == 0 && can_take(conn, bytes, len))) {
            memcpy(partly, bytes, len);
            partly_len = len;
        }
    }
    if (partly_len != 0 && (wholly || !msg->unsure)) {
        conn->guessed = conn->guessed || (guess && !wholly);
        count_appended(conn, partly_len);
        ref->stats.no_responders++;
    } else if (partly_len != 0) {
        conn->guessed = true; /* perhaps it got one */
    }
    free(partly);
    if (any && partly_len == 0 && !msg->unsure)
        return fail(ref, "peer %u, output byte %llu: a request without responders got no 503",
                    conn->peer, (unsigned long long)conn->appended);
    return true;
}

static bool starts_with(struct midge_slice slice, const char *text)
{
    return midge_slice_starts_with(slice, midge_slice_text(text));
}

static bool route(struct midge_ref *ref, struct ref_msg *msg)
{
    struct ref_conn *conn = msg->conn;
    const struct midge_slice reply = msg->reply;
    bool interest = false;

    ref->stats.in_msgs++;
    ref->stats.in_bytes += msg->body.len;
    if (starts_with(msg->subject, "_GR_.") || starts_with(msg->subject, "$GR.") ||
        starts_with(msg->subject, "$NRG."))
        return append_error(ref, conn, "Permissions Violation for Publish to \"", msg->subject,
                            "\"");
    if (starts_with(reply, "_R_.") || starts_with(reply, "_GR_.") || starts_with(reply, "$GR.") ||
        (starts_with(reply, "$JS.ACK.") && reply.len > strlen("$JS.ACK.")))
        return append_error(ref, conn, "Permissions Violation for Publish with Reply of \"", reply,
                            "\"");
    if (conn->verbose && !append_text(ref, conn, "+OK\r\n"))
        return false;
    if (!deliver_to_plain(ref, msg, &interest) || !deliver_to_queues(ref, msg))
        return false;
    ref->stats.no_interest += !interest;
    if (msg->appended == 0 && reply.len != 0 && conn->no_responders)
        return no_responders(ref, msg);
    return true;
}

/* ---- operations ---- */

static bool route_op(struct midge_ref *ref, struct ref_conn *conn, const struct midge_op *op,
                     struct midge_slice body)
{
    struct ref_msg msg = {
        .conn = conn,
        .subject = op->subject,
        .reply = op->reply,
        .header_text = op->header_text,
        .size_text = op->size_text,
        .body = body,
        .header_len = op->header_len,
    };

    return route(ref, &msg);
}

/* Keep the arguments of a message of which bytes are missing. */
static void keep_incoming(struct ref_conn *conn, const struct midge_op *op)
{
    struct midge_slice *slices[] = {&conn->incoming.subject, &conn->incoming.reply,
                                    &conn->incoming.header_text, &conn->incoming.size_text};
    uint8_t *at =
        malloc(op->subject.len + op->reply.len + op->header_text.len + op->size_text.len + 1u);

    MIDGE_ASSERT(at != NULL);
    conn->incoming = *op;
    conn->incoming_text = at;
    conn->incoming_body = malloc(op->total_len + 1u);
    MIDGE_ASSERT(conn->incoming_body != NULL);
    conn->incoming_len = 0;
    for (uint32_t i = 0; i < sizeof(slices) / sizeof(slices[0]); i++) {
        if (slices[i]->len != 0)
            memcpy(at, slices[i]->base, slices[i]->len);
        slices[i]->base = at;
        at += slices[i]->len;
    }
}

static void drop_incoming(struct ref_conn *conn)
{
    free(conn->incoming_text);
    free(conn->incoming_body);
    conn->incoming_text = NULL;
    conn->incoming_body = NULL;
}

static bool on_piece(struct midge_ref *ref, struct ref_conn *conn, const struct midge_op *op)
{
    bool good;

    MIDGE_ASSERT(conn->incoming_body != NULL);
    MIDGE_ASSERT(conn->incoming_len + op->payload.len <= conn->incoming.total_len);
    if (op->payload.len != 0)
        memcpy(conn->incoming_body + conn->incoming_len, op->payload.base, op->payload.len);
    conn->incoming_len += op->payload.len;
    if (!op->last)
        return true;
    good = route_op(ref, conn, &conn->incoming,
                    midge_slice_make(conn->incoming_body, conn->incoming_len));
    drop_incoming(conn);
    return good;
}

static bool on_publish(struct midge_ref *ref, struct ref_conn *conn, const struct midge_op *op)
{
    if (conn->pedantic && (has_empty_token(op->subject) || has_wildcard_token(op->subject)) &&
        !append_text(ref, conn, "-ERR 'Invalid Publish Subject'\r\n"))
        return false;
    if (op->payload_whole)
        return route_op(ref, conn, op, op->payload);
    keep_incoming(conn, op);
    return true;
}

static bool is_login(const struct midge_ref *ref, const struct midge_connect *connect)
{
    if (ref->options.user == NULL)
        return true;
    return connect->user != NULL && connect->pass != NULL &&
           strcmp(connect->user, ref->options.user) == 0 &&
           strcmp(connect->pass, ref->options.pass) == 0;
}

static bool on_connect(struct midge_ref *ref, struct ref_conn *conn, struct midge_slice json)
{
    const uint64_t first_ns = ref->options.ping_interval_ns < MIDGE_FIRST_PING_MS * NS_PER_MS
                                  ? ref->options.ping_interval_ns
                                  : MIDGE_FIRST_PING_MS * NS_PER_MS;

    conn->auth_from_ns = UINT64_MAX;
    conn->ping_from_ns = ref->now_ns + first_ns;
    if (midge_connect_merge(&conn->connect, json) != MIDGE_OK)
        return close_conn(ref, conn, MIDGE_E_ARGS);
    conn->verbose = conn->connect.verbose;
    conn->pedantic = conn->connect.pedantic;
    conn->echo = conn->connect.echo;
    conn->no_responders = conn->connect.no_responders;
    conn->headers = conn->connect.headers && !ref->options.no_header_support;
    conn->parser.limits.headers = conn->headers;
    if (conn->connected)
        drop_subs(conn, true);
    if (!is_login(ref, &conn->connect) || conn->connect.account_given)
        return close_conn(ref, conn, MIDGE_E_AUTH);
    conn->connected = true;
    conn->must_connect = false;
    if (conn->connect.protocol < 0 || conn->connect.protocol > 1)
        return close_conn(ref, conn, MIDGE_E_PROTOCOL);
    if (conn->no_responders && !conn->headers)
        return close_conn(ref, conn, MIDGE_E_NEEDS_HEADERS);
    return !conn->verbose || append_text(ref, conn, "+OK\r\n");
}

static bool on_ping(struct midge_ref *ref, struct ref_conn *conn)
{
    if (!append_text(ref, conn, "PONG\r\n"))
        return false;
    if (!conn->connected || conn->first_pong_sent)
        return true;
    conn->first_pong_sent = true;
    return conn->connect.protocol < 1 || append_info(ref, conn, true);
}

static bool on_op(struct midge_ref *ref, struct ref_conn *conn, const struct midge_op *op)
{
    switch (op->kind) {
    case MIDGE_OP_CONNECT:
        return on_connect(ref, conn, op->json);
    case MIDGE_OP_PUB:
    case MIDGE_OP_HPUB:
        return on_publish(ref, conn, op);
    case MIDGE_OP_PIECE:
        return on_piece(ref, conn, op);
    case MIDGE_OP_SUB:
        return on_sub(ref, conn, op);
    case MIDGE_OP_UNSUB:
        return on_unsub(ref, conn, op);
    case MIDGE_OP_PING:
        return on_ping(ref, conn);
    case MIDGE_OP_PONG:
        conn->pings_out = 0;
        return true;
    case MIDGE_OP_INFO:
        return midge_info_is_object(op->json) || close_conn(ref, conn, MIDGE_E_ARGS);
    case MIDGE_OP_ERR:
        return close_conn(ref, conn, MIDGE_E_PEER_ERR);
    case MIDGE_OP_OK:
    case MIDGE_OP_NONE:
        return true;
    }
    return true;
}

/* ---- what happened ---- */

static struct ref_conn *conn_get(struct midge_ref *ref, uint32_t peer, uint64_t now_ns)
{
    MIDGE_ASSERT(peer < ref->conn_count);
    if (now_ns != 0)
        ref->now_ns = now_ns;
    return &ref->conns[peer];
}

struct midge_ref *midge_ref_create(const struct midge_ref_options *options, uint32_t peer_count)
{
    struct midge_ref *ref = calloc(1, sizeof(*ref));

    MIDGE_ASSERT(ref != NULL);
    ref->options = *options;
    ref->next_cid = options->first_cid;
    ref->conn_count = peer_count;
    ref->conns = calloc(peer_count + 1u, sizeof(*ref->conns));
    MIDGE_ASSERT(ref->conns != NULL);
    ref->stats.exact = true;
    for (uint32_t i = 0; i < peer_count; i++) {
        ref->conns[i].peer = i;
        ref->conns[i].end_slice = UINT64_MAX;
        ref->conns[i].end_appended = UINT64_MAX;
        midge_connect_init(&ref->conns[i].connect);
    }
    return ref;
}

void midge_ref_destroy(struct midge_ref *ref)
{
    for (uint32_t i = 0; i < ref->conn_count; i++) {
        struct ref_conn *conn = &ref->conns[i];

        drop_subs(conn, true);
        drop_incoming(conn);
        midge_connect_deinit(&conn->connect);
        free(conn->line);
    }
    free(ref->conns);
    free(ref);
}

void midge_ref_set_output(struct midge_ref *ref, uint32_t peer, struct midge_slice output,
                          uint64_t end_slice, uint64_t end_appended)
{
    ref->conns[peer].output = output;
    ref->conns[peer].end_slice = end_slice;
    ref->conns[peer].end_appended = end_appended;
}

bool midge_ref_open(struct midge_ref *ref, uint32_t peer, bool named, bool adopted, uint64_t now_ns)
{
    struct ref_conn *conn = conn_get(ref, peer, now_ns);
    const struct midge_parser_limits limits = {
        .control_line_len_max = ref->options.control_line_len_max,
        .payload_len_max = ref->options.payload_len_max,
    };

    conn->shard = ref->shard;
    conn->opened = true;
    conn->open = true;
    conn->cid = ref->next_cid++;
    conn->verbose = true;
    conn->pedantic = true;
    conn->echo = true;
    conn->auth_from_ns = UINT64_MAX;
    conn->ping_from_ns = now_ns + ref->options.ping_interval_ns;
    ref->stats.connects++;
    if (named)
        (void)snprintf(conn->ip, sizeof(conn->ip), "10.%u.%u.%u", peer >> 16 & 255, peer >> 8 & 255,
                       peer & 255);
    midge_parser_init(&conn->parser, &limits);
    conn->line = malloc(limits.control_line_len_max);
    MIDGE_ASSERT(conn->line != NULL);
    midge_parser_lend_line(&conn->parser, conn->line, limits.control_line_len_max);
    if (!adopted)
        return close_conn(ref, conn, MIDGE_E_READ);
    if (!append_info(ref, conn, false))
        return false;
    conn->registered = true;
    if (ref->registered_count++ >= ref->options.connections_max)
        return close_conn(ref, conn, MIDGE_E_MAX_CONNECTIONS);
    conn->must_connect = ref->options.user != NULL;
    if (conn->must_connect)
        conn->auth_from_ns = now_ns + ref->options.auth_timeout_ns;
    return true;
}

/* Byte by byte: the result must not depend on how the stream is cut. */
void midge_ref_left(struct midge_ref *ref, uint32_t peer)
{
    ref->conns[peer].shard = UINT32_MAX;
}

bool midge_ref_arrived(struct midge_ref *ref, uint32_t peer, bool adopted, uint64_t now_ns)
{
    struct ref_conn *conn = conn_get(ref, peer, now_ns);

    if (conn->shard != UINT32_MAX)
        return fail(ref, "peer %u arrives, but was not given away", peer);
    conn->shard = ref->shard;
    conn->arrived_ns = now_ns;
    conn->due_turns = 0;
    conn->late_turns = 0;
    return adopted || close_conn(ref, conn, MIDGE_E_READ);
}

bool midge_ref_receive(struct midge_ref *ref, uint32_t peer, struct midge_slice bytes,
                       uint64_t now_ns)
{
    struct ref_conn *conn = conn_get(ref, peer, now_ns);

    for (uint32_t i = 0; i < bytes.len && conn->open; i++) {
        struct midge_slice input = midge_slice_make(bytes.base + i, 1);
        enum midge_status status = MIDGE_OK;
        struct midge_op op;

        if (conn->must_connect && (input.base[0] | 0x20) != 'c' &&
            midge_parser_at_start(&conn->parser))
            return close_conn(ref, conn, MIDGE_E_AUTH);
        while (conn->open && status == MIDGE_OK) {
            status = midge_parser_next(&conn->parser, &input, &op);
            if (status == MIDGE_OK && !on_op(ref, conn, &op))
                return false;
        }
        if (status < 0 && !close_conn(ref, conn, status))
            return false;
        MIDGE_ASSERT(status != MIDGE_FULL);
    }
    return true;
}

bool midge_ref_receive_kept(struct midge_ref *ref, uint32_t peer, struct midge_slice bytes,
                            uint64_t now_ns)
{
    ref->used_kept = true;
    return midge_ref_receive(ref, peer, bytes, now_ns);
}

bool midge_ref_receive_end(struct midge_ref *ref, uint32_t peer, int res, uint64_t now_ns)
{
    struct ref_conn *conn = conn_get(ref, peer, now_ns);

    if (!conn->open || res == -ENOBUFS || res == -ECANCELED)
        return true;
    return close_conn(ref, conn, res == 0 ? MIDGE_E_EOF : MIDGE_E_READ);
}

void midge_ref_sent(struct midge_ref *ref, uint32_t peer, uint32_t len)
{
    ref->conns[peer].sent += len;
}

bool midge_ref_settled(struct midge_ref *ref, uint32_t peer, int64_t res, bool is_short,
                       uint64_t now_ns)
{
    struct ref_conn *conn = conn_get(ref, peer, now_ns);
    uint64_t sent;

    if (res < 0 && res != -EAGAIN) {
        if (ref->shard == conn->shard)
            return close_conn(ref, conn, MIDGE_E_WRITE);
        /* Another shard refuses for its shard, and asks that one to close. */
        if (!conn->refusing)
            conn->ending = MIDGE_E_WRITE;
        conn->refusing = true;
    }
    if (res > 0) {
        if ((uint64_t)res > conn->pending && !conn->guessed)
            return fail(ref, "peer %u: %lld bytes were sent, %llu were owed", peer, (long long)res,
                        (unsigned long long)conn->pending);
        conn->pending -= (uint64_t)res < conn->pending ? (uint64_t)res : conn->pending;
    }
    sent = conn->appended - conn->pending;
    if (conn->stalled_at_ns != 0 && sent >= conn->stall_mark)
        conn->stalled_at_ns = 0;
    if (conn->stalled_at_ns == 0 && is_short) {
        conn->stalled_at_ns = now_ns;
        conn->stall_mark = conn->appended;
    }
    return true;
}

/* Until when a connection that is closing may go on to send what it owes. */
static uint64_t flush_deadline_ns(const struct midge_ref *ref, const struct ref_conn *conn)
{
    const uint64_t write_ns = ref->options.write_deadline_ns;
    uint64_t deadline_ns = conn->closed_at_ns + (write_ns < FLUSH_NS_MAX ? write_ns : FLUSH_NS_MAX);

    if (ref->stopped_at_ns != 0 && deadline_ns > ref->stopped_at_ns + FLUSH_STOP_NS_MAX)
        deadline_ns = ref->stopped_at_ns + FLUSH_STOP_NS_MAX;
    return deadline_ns;
}

bool midge_ref_shut(struct midge_ref *ref, uint32_t peer, uint64_t now_ns)
{
    struct ref_conn *conn = conn_get(ref, peer, now_ns);
    const uint64_t deadline_ns = flush_deadline_ns(ref, conn);

    conn->shut = true;
    /* Who sees the end finds the place free. */
    ref->registered_count -= conn->registered;
    conn->registered = false;
    if (conn->open || conn->hard || conn->ending != MIDGE_OK || conn->too_slow ||
        conn->maybe_slow || conn->guessed || conn->pending == 0)
        return true;
    if (now_ns < deadline_ns && !ref->options.memory_limited)
        return fail(ref, "peer %u (%s) was closed %llu ms after its end with %llu bytes owed", peer,
                    midge_status_name(conn->status),
                    (unsigned long long)((now_ns - conn->closed_at_ns) / NS_PER_MS),
                    (unsigned long long)conn->pending);
    conn->hard = true;
    return true;
}

bool midge_ref_closed(struct midge_ref *ref, uint32_t peer)
{
    struct ref_conn *conn = conn_get(ref, peer, 0);

    conn->closed = true;
    if (!conn->opened)
        return true;
    ref->stats.disconnects++;
    return conn->shut || fail(ref, "peer %u was closed without a shutdown", peer);
}

bool midge_ref_pinged(struct midge_ref *ref, uint32_t peer, uint32_t number, uint64_t now_ns)
{
    struct ref_conn *conn = conn_get(ref, peer, now_ns);

    if (now_ns < conn->ping_from_ns)
        return fail(ref, "peer %u got a PING %llu ms early", peer,
                    (unsigned long long)((conn->ping_from_ns - now_ns) / NS_PER_MS));
    /* Less than expected: while it was held back as a publisher, its silence said nothing. */
    if (number > conn->pings_out + 1 || number > ref->options.ping_max)
        return fail(ref, "peer %u got PING number %u without a PONG", peer, number);
    conn->pings_out = number;
    conn->ping_from_ns = now_ns + ref->options.ping_interval_ns;
    return append_text(ref, conn, "PING\r\n");
}

/* Is there a reason for what a timer did? */
static bool check_timer_close(struct midge_ref *ref, const struct ref_conn *conn,
                              enum midge_status status)
{
    if (status == MIDGE_E_STALE && conn->pings_out >= ref->options.ping_max &&
        ref->now_ns >= conn->ping_from_ns)
        return true;
    if (status == MIDGE_E_AUTH_TIMEOUT && ref->now_ns >= conn->auth_from_ns)
        return true;
    if (status == MIDGE_E_SLOW_DEADLINE && conn->stalled_at_ns != 0 &&
        ref->now_ns >= conn->stalled_at_ns + ref->options.write_deadline_ns)
        return true;
    if (status == MIDGE_E_SHUTDOWN || (status == MIDGE_E_MEMORY && ref->options.memory_limited))
        return true;
    if (status == MIDGE_E_WRITE && conn->ending == status)
        return true;
    return fail(ref, "peer %u was closed for %s without reason", conn->peer,
                midge_status_name(status));
}

bool midge_ref_close_seen(struct midge_ref *ref, uint32_t peer, enum midge_status status,
                          uint64_t now_ns)
{
    struct ref_conn *conn = conn_get(ref, peer, now_ns);

    conn->close_seen = true;
    /* Both in one turn: the end of the stream, say, and then no room. */
    if (!conn->open && status == MIDGE_E_SLOW_PENDING && !conn->hard &&
        (conn->too_slow || conn->maybe_slow || conn->guessed))
        return close_conn(ref, conn, status);
    if (!conn->open && ((status == MIDGE_E_WRITE && conn->ending == status) ||
                        (status == MIDGE_E_MEMORY && ref->options.memory_limited)))
        return close_conn(ref, conn, status);
    if (!conn->open)
        return conn->status == status ||
               fail(ref, "peer %u was closed for %s, expected %s", peer, midge_status_name(status),
                    midge_status_name(conn->status));
    if (status == MIDGE_E_SLOW_PENDING) {
        if (!conn->too_slow && !conn->maybe_slow && !conn->guessed)
            return fail(ref, "peer %u was closed as too slow with %llu bytes pending", peer,
                        (unsigned long long)conn->pending);
    } else if (!check_timer_close(ref, conn, status)) {
        return false;
    }
    return close_conn(ref, conn, status);
}

void midge_ref_purged(struct midge_ref *ref, uint32_t peer)
{
    drop_subs(&ref->conns[peer], true);
}

bool midge_ref_refused(struct midge_ref *ref, uint32_t peer)
{
    struct ref_conn *conn = conn_get(ref, peer, 0);

    if (conn->refusing)
        return true;
    if (!conn->maybe_slow && !conn->guessed && !ref->options.memory_limited)
        return fail(ref, "peer %u is refused output without reason", peer);
    conn->refusing = true;
    if (ref->options.memory_limited)
        conn->ending = MIDGE_E_MEMORY;
    return true;
}

void midge_ref_at(struct midge_ref *ref, uint64_t slice, uint32_t shard)
{
    ref->slice = slice;
    ref->shard = shard;
}

void midge_ref_slice_end(struct midge_ref *ref, uint64_t expired_peers)
{
    for (uint32_t i = 0; i < ref->conn_count; i++) {
        struct ref_conn *conn = &ref->conns[i];

        if (conn->dead_count != 0 && !conn->closed && (expired_peers >> i & 1) == 0)
            drop_subs(conn, false);
    }
}

/* What the shard of this connection must have seen to in the turn that ends. */
static bool check_turn_end(struct midge_ref *ref, struct ref_conn *conn)
{
    /* What others ask for while a turn is under way is done in the next one, and a timer that is
     * set then fires in the one after it. */
    const uint32_t due_max = ref->options.shard_count > 1 ? 1 : 0;
    const bool settled_in = ref->now_ns > conn->arrived_ns + TIMER_LATE_NS;
    const bool late =
        settled_in && conn->stalled_at_ns != 0 &&
        ref->now_ns > conn->stalled_at_ns + ref->options.write_deadline_ns + TIMER_LATE_NS;
    const bool due = conn->too_slow || conn->ending != MIDGE_OK;

    /* Where nothing told who got a message, it may not be over max_pending. */
    conn->due_turns += due && !(conn->too_slow && conn->guessed);
    if (!late || conn->late_turns <= due_max)
        conn->late_told_ns = ref->now_ns;
    conn->late_turns = late ? conn->late_turns + 1 : 0;
    conn->hard = conn->hard || due || conn->maybe_slow;
    if (!conn->open)
        return conn->close_seen || fail(ref, "peer %u stays open after %s", conn->peer,
                                        midge_status_name(conn->status));
    /* The requests of a turn are looked at before what was kept is used. */
    if (conn->due_turns > due_max && !(ref->used_kept && conn->due_turns == 1))
        return fail(ref, "peer %u is %s and stays open", conn->peer,
                    conn->too_slow ? "over max_pending" : "to be closed");
    if (conn->shut)
        return fail(ref, "peer %u was shut down without reason", conn->peer);
    if (conn->late_turns > 2 * due_max &&
        (due_max == 0 || ref->now_ns > conn->late_told_ns + TIMER_LATE_NS))
        return fail(ref, "peer %u is over its write deadline and stays open", conn->peer);
    if (settled_in && ref->now_ns > conn->auth_from_ns &&
        ref->now_ns - conn->auth_from_ns > TIMER_LATE_NS)
        return fail(ref, "peer %u has not sent CONNECT in time and stays open", conn->peer);
    return true;
}

bool midge_ref_turn_end(struct midge_ref *ref, uint64_t now_ns)
{
    ref->now_ns = now_ns;
    for (uint32_t i = 0; i < ref->conn_count; i++) {
        struct ref_conn *conn = &ref->conns[i];

        if (conn->opened && conn->shard == ref->shard && !check_turn_end(ref, conn))
            return false;
    }
    ref->used_kept = false;
    return true;
}

void midge_ref_stop(struct midge_ref *ref, uint64_t now_ns)
{
    ref->stopped_at_ns = now_ns;
}

bool midge_ref_check_quiet(struct midge_ref *ref)
{
    for (uint32_t i = 0; i < ref->conn_count; i++) {
        const struct ref_conn *conn = &ref->conns[i];

        if (conn->open && conn->sent != conn->appended && !conn->guessed)
            return fail(ref, "peer %u: %llu bytes were owed, %llu were sent", conn->peer,
                        (unsigned long long)conn->appended, (unsigned long long)conn->sent);
    }
    return true;
}

bool midge_ref_check_end(struct midge_ref *ref)
{
    for (uint32_t i = 0; i < ref->conn_count; i++) {
        const struct ref_conn *conn = &ref->conns[i];

        if (!conn->opened)
            continue;
        if (!conn->closed)
            return fail(ref, "peer %u was never closed", conn->peer);
        if (conn->appended < conn->output.len && !conn->guessed)
            return fail(ref, "peer %u was sent %u bytes, %llu were owed", conn->peer,
                        conn->output.len, (unsigned long long)conn->appended);
        if (conn->appended != conn->end_appended && !conn->guessed && !conn->maybe_slow)
            return fail(ref, "peer %u (%s): the broker owed %llu bytes, expected %llu", conn->peer,
                        midge_status_name(conn->status), (unsigned long long)conn->end_appended,
                        (unsigned long long)conn->appended);
        if (!conn->hard && conn->appended != conn->output.len && !conn->guessed)
            return fail(ref, "peer %u (%s): %llu bytes were owed, %u were sent", conn->peer,
                        midge_status_name(conn->status), (unsigned long long)conn->appended,
                        conn->output.len);
        ref->stats.delivered += conn->delivered;
        ref->stats.cut = ref->stats.cut || conn->appended != conn->output.len;
    }
    return true;
}

bool midge_ref_is_lost(const struct midge_ref *ref)
{
    return ref->lost;
}

const struct midge_ref_stats *midge_ref_stats(const struct midge_ref *ref)
{
    return &ref->stats;
}

const char *midge_ref_failure(const struct midge_ref *ref)
{
    return ref->failure;
}
