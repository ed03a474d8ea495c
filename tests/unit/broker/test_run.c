/* Runs: messages to one subject that lie behind each other in the receive buffer are delivered
 * together, and nobody can tell. Method: one write of a publisher, and every byte that each peer
 * gets, on the simulated ring; the counters say what was shared. */
#include "rig.h"

#include <criterion/criterion.h>
#include <stdio.h>

#include "midge/subindex.h"

#define BYTES_MAX 32768u

static struct midge_rig rig;

static void start(void)
{
    midge_rig_prepare(&rig);
    midge_rig_start(&rig);
}

static void stop(void)
{
    midge_rig_stop(&rig);
}

TestSuite(run, .init = start, .fini = stop);

/* One write, so that all of it is in one buffer. */
static void write_at_once(uint32_t peer, const char *text)
{
    const struct midge_slice bytes = midge_slice_text(text);

    cr_assert_eq(midge_sim_peer_write(rig.sim, peer, bytes), bytes.len);
    midge_rig_settle(&rig);
}

static void expect(uint32_t peer, const char *text)
{
    static char have[BYTES_MAX];
    const uint32_t len = midge_sim_peer_read(rig.sim, peer, have, BYTES_MAX - 1);

    have[len] = '\0';
    cr_assert_str_eq(have, text);
}

/* Looks into the index since the start. */
static uint64_t matches(void)
{
    struct midge_subindex_cache_counts counts;

    midge_subindex_cache_counts(rig.shard->reader, &counts);
    return counts.hits + counts.misses;
}

#define PUB(n)      "PUB a 1\r\n" #n "\r\n"
#define MSG(sid, n) "MSG a " #sid " 1\r\n" #n "\r\n"

Test(run, is_matched_once)
{
    const uint32_t reader = midge_rig_join(&rig, "SUB a 1\r\n");
    const uint32_t publisher = midge_rig_join(&rig, "");
    const uint64_t before = matches();

    write_at_once(publisher, PUB(1) PUB(2) PUB(3) "PUB a 0\r\n\r\n");
    expect(reader, MSG(1, 1) MSG(1, 2) MSG(1, 3) "MSG a 1 0\r\n\r\n");
    cr_assert_eq(matches() - before, 1);
}

Test(run, ends_where_the_subject_changes)
{
    const uint32_t reader = midge_rig_join(&rig, "SUB a 1\r\nSUB b 2\r\n");
    const uint32_t publisher = midge_rig_join(&rig, "");
    const uint64_t before = matches();

    write_at_once(publisher, PUB(1) PUB(2) "PUB b 1\r\n3\r\n" PUB(4));
    expect(reader, MSG(1, 1) MSG(1, 2) "MSG b 2 1\r\n3\r\n" MSG(1, 4));
    cr_assert_eq(matches() - before, 3);
}

Test(run, of_a_connection_with_two_copies_goes_message_by_message)
{
    const uint32_t reader = midge_rig_join(&rig, "SUB a 1\r\nSUB > 2\r\n");
    const uint32_t other = midge_rig_join(&rig, "SUB a 1\r\n");
    const uint32_t publisher = midge_rig_join(&rig, "");
    char have[256];
    uint32_t len;

    write_at_once(publisher, PUB(1) PUB(2));
    expect(other, MSG(1, 1) MSG(1, 2));
    len = midge_sim_peer_read(rig.sim, reader, have, sizeof(have) - 1);
    have[len] = '\0';
    /* Which copy comes first is not said; but both of one message come before the next one. */
    cr_assert_eq(len, 4 * strlen(MSG(1, 1)));
    cr_assert_gt(strstr(have, "\n2\r\n"), strstr(strstr(have, "\n1\r\n") + 1, "\n1\r\n"));
}

Test(run, gives_a_queue_group_each_message_once)
{
    const uint32_t reader = midge_rig_join(&rig, "SUB a q 1\r\nSUB a 2\r\n");
    const uint32_t publisher = midge_rig_join(&rig, "");

    write_at_once(publisher, PUB(1) PUB(2));
    expect(reader, MSG(2, 1) MSG(1, 1) MSG(2, 2) MSG(1, 2));
}

Test(run, gives_a_subscription_its_max_and_no_more)
{
    const uint32_t reader = midge_rig_join(&rig, "SUB a 1\r\nUNSUB 1 2\r\n");
    const uint32_t other = midge_rig_join(&rig, "SUB a 7\r\n");
    const uint32_t publisher = midge_rig_join(&rig, "");

    write_at_once(publisher, PUB(1) PUB(2) PUB(3));
    expect(reader, MSG(1, 1) MSG(1, 2));
    expect(other, MSG(7, 1) MSG(7, 2) MSG(7, 3));
    cr_assert_eq(midge_stats_read(&rig.shard->stats.matched), 5, "one past max is no target");
}

Test(run, comes_before_what_its_publisher_says_next)
{
    const uint32_t both = midge_rig_join(&rig, "SUB a 1\r\n");

    write_at_once(both, PUB(1) PUB(2) "PING\r\n" PUB(3) "UNSUB 1\r\n" PUB(4) "PING\r\n");
    expect(both, MSG(1, 1) MSG(1, 2) "PONG\r\n" MSG(1, 3) "PONG\r\n");
}

Test(run, comes_before_the_error_that_ends_its_publisher)
{
    const uint32_t both = midge_rig_join(&rig, "SUB a 1\r\n");

    write_at_once(both, PUB(1) PUB(2) "nonsense\r\n");
    expect(both, MSG(1, 1) MSG(1, 2) "-ERR 'Unknown Protocol Operation'\r\n");
}

Test(run, is_none_where_each_message_has_an_answer)
{
    const uint32_t both = midge_rig_join(&rig, "SUB a 1\r\nSUB r 2\r\n");

    write_at_once(both, "CONNECT {\"verbose\":true}\r\nSUB a 1\r\n");
    (void)midge_rig_drain(&rig, both);
    write_at_once(both, PUB(1) PUB(2));
    expect(both, "+OK\r\n" MSG(1, 1) "+OK\r\n" MSG(1, 2));
    write_at_once(both, "CONNECT {\"verbose\":false,\"pedantic\":true}\r\nSUB > 1\r\n");
    write_at_once(both, PUB(3) "PUB * 1\r\n4\r\n" PUB(5));
    expect(both, MSG(1, 3) "-ERR 'Invalid Publish Subject'\r\nMSG * 1 1\r\n4\r\n" MSG(1, 5));
}

Test(run, asks_for_each_reply_by_itself)
{
    const uint32_t publisher = midge_rig_join(
        &rig, "CONNECT {\"verbose\":false,\"headers\":true,\"no_responders\":true}\r\nSUB r 9\r\n");
    const uint32_t reader = midge_rig_join(&rig, "SUB a 1\r\nUNSUB 1 3\r\n");

    write_at_once(publisher, PUB(1) "PUB a r 1\r\n2\r\n" PUB(3) "PUB a r 1\r\n4\r\n" PUB(5));
    expect(reader, MSG(1, 1) "MSG a 1 r 1\r\n2\r\n" MSG(1, 3));
    expect(publisher, "HMSG r 9 33 33\r\nNATS/1.0 503\r\nNats-Subject: a\r\n\r\n\r\n");
}

Test(run, keeps_headers_from_who_did_not_ask)
{
    const uint32_t publisher =
        midge_rig_join(&rig, "CONNECT {\"verbose\":false,\"headers\":true}\r\nSUB a 3\r\n");
    const uint32_t reader = midge_rig_join(&rig, "SUB a 1\r\n");

    write_at_once(publisher, PUB(1) "HPUB a 12 13\r\nNATS/1.0\r\n\r\n2\r\n" PUB(3));
    expect(reader, MSG(1, 1) MSG(1, 2) MSG(1, 3));
    expect(publisher, MSG(3, 1) "HMSG a 3 12 13\r\nNATS/1.0\r\n\r\n2\r\n" MSG(3, 3));
}

/* A control line that began in an earlier buffer lies in the line buffer, which the next one that
 * is cut overwrites. */
Test(run, does_not_outlive_the_line_buffer)
{
    const uint32_t reader = midge_rig_join(&rig, "SUB aaaa 1\r\nSUB bbbb 2\r\n");
    const uint32_t publisher = midge_rig_join(&rig, "");

    write_at_once(publisher, "PUB aa");
    write_at_once(publisher, "aa 1\r\n1\r\nPUB bbbb 1");
    write_at_once(publisher, "\r\n2\r\nPUB aaaa 1\r\n3\r\n");
    expect(reader, "MSG aaaa 1 1\r\n1\r\nMSG bbbb 2 1\r\n2\r\nMSG aaaa 1 1\r\n3\r\n");
}

Test(run, of_many_or_long_messages_is_cut)
{
    static char sent[BYTES_MAX];
    static char wanted[BYTES_MAX];
    const uint32_t reader = midge_rig_join(&rig, "SUB a 1\r\n");
    const uint32_t publisher = midge_rig_join(&rig, "");
    uint64_t before = matches();
    size_t sent_len = 0;
    size_t wanted_len = 0;

    for (uint32_t i = 0; i < MIDGE_RUN_MSGS_MAX + 1; i++) {
        sent_len +=
            (size_t)snprintf(sent + sent_len, BYTES_MAX - sent_len, "PUB a 2\r\n%02u\r\n", i);
        wanted_len += (size_t)snprintf(wanted + wanted_len, BYTES_MAX - wanted_len,
                                       "MSG a 1 2\r\n%02u\r\n", i);
    }
    write_at_once(publisher, sent);
    expect(reader, wanted);
    cr_assert_eq(matches() - before, 2);

    before = matches();
    sent_len = 0;
    wanted_len = 0;
    for (uint32_t i = 0; i < 3; i++) {
        sent_len +=
            (size_t)snprintf(sent + sent_len, BYTES_MAX - sent_len, "PUB a 4000\r\n%04000u\r\n", i);
        wanted_len += (size_t)snprintf(wanted + wanted_len, BYTES_MAX - wanted_len,
                                       "MSG a 1 4000\r\n%04000u\r\n", i);
    }
    write_at_once(publisher, sent);
    expect(reader, wanted);
    cr_assert_eq(matches() - before, 2, "8,192 bytes under one lock, and no more");
}

Test(run, of_a_subscription_with_a_very_long_sid_goes_message_by_message)
{
    static char sid[3001];
    char text[8 * sizeof(sid)];
    uint32_t reader;
    uint32_t publisher;

    memset(sid, 's', sizeof(sid) - 1);
    (void)snprintf(text, sizeof(text), "SUB a %s\r\n", sid);
    reader = midge_rig_join(&rig, text);
    publisher = midge_rig_join(&rig, "");
    write_at_once(publisher, PUB(1) PUB(2) PUB(3));
    (void)snprintf(text, sizeof(text), "MSG a %s 1\r\n1\r\nMSG a %s 1\r\n2\r\nMSG a %s 1\r\n3\r\n",
                   sid, sid, sid);
    expect(reader, text);
}

/* The third message does not fit: it is dropped as too much, the others because of that. */
Test(run, that_is_too_much_for_a_reader_is_accounted_for)
{
    const uint32_t reader = midge_rig_join(&rig, "SUB a 1\r\n");
    const uint32_t publisher = midge_rig_join(&rig, "");
    const struct midge_stats *stats = &rig.shard->stats;

    midge_rig_conn(&rig, reader)->outbox.pending_bytes_max = 2 * strlen(MSG(1, 1));
    write_at_once(publisher, PUB(1) PUB(2) PUB(3) PUB(4) PUB(5));
    cr_assert_eq(midge_stats_read(&stats->matched), 5);
    cr_assert_eq(midge_stats_read(&stats->out_msgs), 2);
    cr_assert_eq(midge_stats_read(&stats->out_bytes), 2);
    cr_assert_eq(midge_stats_read(&stats->dropped_slow), 1);
    cr_assert_eq(midge_stats_read(&stats->dropped_closing), 2);
    cr_assert_eq(midge_stats_read(&stats->in_msgs), 5);
}
