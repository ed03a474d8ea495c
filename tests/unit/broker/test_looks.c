/*
 * Why connections move with --threads auto, and why not.
 * Method: three shards on the simulated ring; how busy each is and how idle the cores are is
 * replaced (--wrap); the test turns the clock from look to look while peers talk.
 */
#include <criterion/criterion.h>
#include <string.h>

#include "rig.h"

#define SHARDS 3u

static struct midge_rig rig;
static uint32_t busy_permilles[SHARDS]; /* of a core, each shard */
static uint32_t idle_permille;          /* of a core, all together */

uint64_t __wrap_midge_ring_busy_ns(struct midge_ring *ring);
uint64_t __wrap_midge_ring_idle_ns(struct midge_ring *ring);

/* The share applies from one call to the next, as what is simulated never changes between them. */
static uint64_t share_of(struct midge_ring *ring, uint64_t *total_ns, uint64_t *at_ns,
                         uint32_t permille)
{
    const uint64_t now_ns = midge_ring_now_ns(ring);

    *total_ns += (now_ns - *at_ns) * permille / 1000;
    *at_ns = now_ns;
    return *total_ns;
}

uint64_t __wrap_midge_ring_busy_ns(struct midge_ring *ring)
{
    static uint64_t totals_ns[SHARDS], ats_ns[SHARDS];

    uint32_t i = 0;

    while (rig.shards[i]->ring != ring)
        i++;
    return share_of(ring, &totals_ns[i], &ats_ns[i], busy_permilles[i]);
}

uint64_t __wrap_midge_ring_idle_ns(struct midge_ring *ring)
{
    static uint64_t total_ns, at_ns;

    return share_of(ring, &total_ns, &at_ns, idle_permille);
}

static void set_shares(uint32_t first, uint32_t second, uint32_t third, uint32_t idle)
{
    busy_permilles[0] = first;
    busy_permilles[1] = second;
    busy_permilles[2] = third;
    idle_permille = idle;
}

static void set_up(void)
{
    midge_rig_prepare(&rig);
    rig.shard_count = SHARDS;
    rig.look_ns = MIDGE_BALANCE_LOOK_NS;
    midge_rig_start(&rig);
    set_shares(0, 0, 0, 2000);
    midge_rig_pass_ms(&rig, 100);
}

static uint32_t place(uint32_t peer)
{
    const struct midge_shard *owner = midge_conn_owner(midge_rig_conn(&rig, peer));

    return owner != NULL ? owner->index : SHARDS;
}

/* Have a connection moved without a reason, and forget what it did before. */
static void put(uint32_t peer, uint32_t shard)
{
    struct midge_conn *conn = midge_rig_conn(&rig, peer);

    midge_conn_move(midge_conn_owner(conn), conn, rig.shards[shard]);
    midge_rig_settle(&rig);
    cr_assert_eq(place(peer), shard);
}

/* A publisher that sends to `subject` and a subscriber of it, both on the first shard. */
struct pair {
    uint32_t publisher;
    uint32_t subscriber;
    char message[64];
};

static struct pair join_pair(const char *subject)
{
    struct pair pair;
    char sub[64];

    (void)snprintf(sub, sizeof(sub), "SUB %s 1\r\n", subject);
    (void)snprintf(pair.message, sizeof(pair.message), "PUB %s 2\r\nhi\r\n", subject);
    pair.publisher = midge_rig_join(&rig, "PING\r\n");
    pair.subscriber = midge_rig_join(&rig, sub);
    return pair;
}

/* Pairs with subjects of their own: "a", "b", … */
static void join_pairs(struct pair *pairs, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        pairs[i] = join_pair((char[]){(char)('a' + i), '\0'});
}

/* So many looks, each after every pair has sent a message. */
static void talk(const struct pair *pairs, uint32_t count, uint32_t looks)
{
    for (uint32_t look = 0; look < looks; look++) {
        for (uint32_t i = 0; i < count; i++)
            midge_rig_write_text(&rig, pairs[i].publisher, pairs[i].message);
        midge_rig_pass_ms(&rig, 100);
        for (uint32_t i = 0; i < count; i++)
            cr_assert_gt(midge_rig_drain(&rig, pairs[i].subscriber), 0, "a message is lost");
    }
}

Test(looks, a_busy_shard_gives_half_of_the_pairs_away_and_no_half_pair)
{
    struct pair pairs[4];
    uint32_t moved = 0;

    set_up();
    join_pairs(pairs, 4);
    set_shares(950, 0, 0, 1000);
    talk(pairs, 4, 3);
    for (uint32_t i = 0; i < 4; i++)
        cr_assert_eq(place(pairs[i].publisher), 0, "a short burst moves nobody");
    talk(pairs, 4, 4);
    for (uint32_t i = 0; i < 4; i++) {
        cr_assert_eq(place(pairs[i].publisher), place(pairs[i].subscriber));
        cr_assert_lt(place(pairs[i].publisher), 2, "one more shard is enough");
        moved += place(pairs[i].publisher);
    }
    cr_assert_eq(moved, 2);
    midge_rig_stop(&rig);
}

Test(looks, without_an_idle_core_nobody_moves)
{
    struct pair pairs[2];

    set_up();
    join_pairs(pairs, 2);
    set_shares(990, 0, 0, 400);
    talk(pairs, 2, 50);
    cr_assert_eq(place(pairs[0].publisher) + place(pairs[1].publisher), 0);
    midge_rig_stop(&rig);
}

Test(looks, what_goes_goes_to_a_shard_in_use_that_has_room)
{
    struct pair pairs[5];
    uint32_t moved = 0;

    set_up();
    join_pairs(pairs, 5);
    put(pairs[4].publisher, 2);
    put(pairs[4].subscriber, 2);
    set_shares(950, 0, 450, 1000);
    talk(pairs, 5, 8);
    for (uint32_t i = 0; i < 4; i++)
        moved += place(pairs[i].publisher);
    cr_assert_eq(moved, 2, "one of the four, which is half of the difference");
    midge_rig_stop(&rig);
}

Test(looks, a_partner_comes_to_the_first_shard_while_it_has_room)
{
    struct pair pair;

    set_up();
    pair = join_pair("a");
    put(pair.publisher, 2);
    set_shares(300, 0, 150, 1000);
    talk(&pair, 1, 6);
    cr_assert_eq(place(pair.publisher), 2);
    talk(&pair, 1, 4);
    cr_assert_eq(place(pair.publisher), 0);
    cr_assert_eq(place(pair.subscriber), 0);
    midge_rig_stop(&rig);
}

Test(looks, who_only_subscribes_follows_its_publisher_from_a_shard_that_is_busy)
{
    struct pair pair;

    set_up();
    pair = join_pair("a");
    put(pair.publisher, 1);
    set_shares(550, 550, 0, 1000);
    talk(&pair, 1, 10);
    cr_assert_eq(place(pair.publisher), 1);
    cr_assert_eq(place(pair.subscriber), 1);
    midge_rig_stop(&rig);
}

/* A requester and a responder: each sends, and gets what the other one sends. */
Test(looks, of_two_partners_only_one_moves)
{
    static const uint32_t first_permilles[] = {300, 700};

    for (uint32_t i = 0; i < 2; i++) {
        uint32_t requester, responder;
        struct pair others[4]; /* have most of the first shard's time */

        set_up();
        join_pairs(others, 4);
        requester = midge_rig_join(&rig, "SUB reply 1\r\n");
        responder = midge_rig_join(&rig, "SUB ask 1\r\n");
        put(responder, 1);
        set_shares(first_permilles[i], 100, 0, 1000);
        for (uint32_t look = 0; look < 30; look++) {
            midge_rig_write_text(&rig, requester, "PUB ask 2\r\nhi\r\n");
            midge_rig_write_text(&rig, responder, "PUB reply 2\r\nho\r\n");
            talk(others, 4, 1);
            cr_assert_gt(midge_rig_drain(&rig, requester), 0);
            cr_assert_gt(midge_rig_drain(&rig, responder), 0);
        }
        cr_assert_eq(place(requester), i, "%u", first_permilles[i]);
        cr_assert_eq(place(responder), i, "%u", first_permilles[i]);
        cr_assert_eq(rig.shards[0]->stats.join_moves + rig.shards[1]->stats.join_moves, 1);
        midge_rig_stop(&rig);
    }
}

Test(looks, after_a_split_of_one_group_nothing_goes_back)
{
    struct pair pairs[4];
    uint64_t moves = 0;

    set_up();
    for (uint32_t i = 0; i < 4; i++)
        pairs[i] = join_pair("all");
    set_shares(850, 0, 0, 1000);
    talk(pairs, 4, 6);
    cr_assert_eq(rig.shard->stats.spread_moves, 2, "half of the publishers");
    /* What crossing costs on top: a third. */
    set_shares(520, 520, 0, 1000);
    talk(pairs, 4, 100);
    for (uint32_t i = 0; i < 4; i++)
        moves += place(pairs[i].publisher);
    cr_assert_eq(moves, 2);
    cr_assert_eq(rig.shard->stats.spread_moves, 2);
    midge_rig_stop(&rig);
}

Test(looks, two_shards_that_are_nearly_idle_become_one_after_five_seconds)
{
    struct pair pair;

    set_up();
    pair = join_pair("a");
    put(pair.publisher, 1);
    put(pair.subscriber, 1);
    set_shares(100, 100, 0, 2000);
    talk(&pair, 1, 45);
    cr_assert_eq(place(pair.publisher), 1);
    talk(&pair, 1, 10);
    cr_assert_eq(place(pair.publisher), 0);
    cr_assert_eq(place(pair.subscriber), 0);
    cr_assert_eq(rig.shards[1]->stats.shrink_moves, 2);
    midge_rig_stop(&rig);
}

Test(looks, a_busy_first_shard_gives_new_connections_to_the_least_busy_one_in_use)
{
    struct pair pairs[2];
    uint32_t late;

    set_up();
    join_pairs(pairs, 2);
    put(pairs[1].publisher, 2);
    put(pairs[1].subscriber, 2);
    set_shares(990, 0, 850, 0);
    talk(pairs, 2, 2);
    late = midge_rig_join(&rig, "PING\r\n");
    cr_assert_eq(place(late), 2);
    set_shares(500, 0, 450, 0);
    talk(pairs, 2, 2);
    late = midge_rig_join(&rig, "PING\r\n");
    cr_assert_eq(place(late), 0);
    midge_rig_stop(&rig);
}
