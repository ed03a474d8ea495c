/*
 * When retired objects are freed. Method: participants of one thread in every order of online,
 * offline and quiescent; the callback counts. What threads do to each other is in stress_reclaim.c.
 */
#include <criterion/criterion.h>

#include "midge/reclaim.h"

struct chain {
    struct midge_participant *participant;
    uint32_t left;
    uint32_t freed;
};

static void count_cb(void *context, void *object)
{
    (void)object;
    *(uint32_t *)context += 1;
}

/* Retires itself again until nothing is left. */
static void chain_cb(void *context, void *object)
{
    struct chain *chain = context;

    chain->freed++;
    if (chain->left-- > 0)
        midge_reclaim_retire(chain->participant, object, chain, chain_cb);
}

Test(reclaim, a_lone_participant_frees_at_its_next_quiescent_call)
{
    struct midge_reclaim *reclaim = midge_reclaim_create();
    struct midge_participant *participant = midge_reclaim_register(reclaim);
    uint32_t freed = 0;
    int object;

    midge_reclaim_online(participant);
    midge_reclaim_retire(participant, &object, &freed, count_cb);
    cr_assert_eq(freed, 0);
    cr_assert_eq(midge_reclaim_waiting(participant), 1);
    midge_reclaim_quiescent(participant);
    cr_assert_eq(freed, 1);
    cr_assert_eq(midge_reclaim_waiting(participant), 0);
    midge_reclaim_offline(participant);
    midge_reclaim_destroy(reclaim);
}

Test(reclaim, an_online_participant_holds_back_what_is_retired)
{
    struct midge_reclaim *reclaim = midge_reclaim_create();
    struct midge_participant *writer = midge_reclaim_register(reclaim);
    struct midge_participant *reader = midge_reclaim_register(reclaim);
    uint32_t freed = 0;
    int object;

    midge_reclaim_online(writer);
    midge_reclaim_online(reader);
    midge_reclaim_retire(writer, &object, &freed, count_cb);
    for (int i = 0; i < 10; i++)
        midge_reclaim_quiescent(writer);
    cr_assert_eq(freed, 0);
    midge_reclaim_quiescent(reader);
    cr_assert_eq(freed, 0, "freed on the thread of another participant");
    midge_reclaim_quiescent(writer);
    cr_assert_eq(freed, 1);
    midge_reclaim_offline(writer);
    midge_reclaim_offline(reader);
    midge_reclaim_destroy(reclaim);
}

Test(reclaim, an_announcement_before_the_retirement_does_not_count)
{
    struct midge_reclaim *reclaim = midge_reclaim_create();
    struct midge_participant *writer = midge_reclaim_register(reclaim);
    struct midge_participant *reader = midge_reclaim_register(reclaim);
    uint32_t freed = 0;
    int objects[2];

    midge_reclaim_online(writer);
    midge_reclaim_online(reader);
    midge_reclaim_retire(writer, &objects[0], &freed, count_cb);
    midge_reclaim_quiescent(writer);
    midge_reclaim_quiescent(reader);
    midge_reclaim_retire(writer, &objects[1], &freed, count_cb);
    midge_reclaim_quiescent(writer);
    cr_assert_eq(freed, 1);
    midge_reclaim_quiescent(writer);
    cr_assert_eq(freed, 1);
    midge_reclaim_quiescent(reader);
    midge_reclaim_quiescent(writer);
    cr_assert_eq(freed, 2);
    midge_reclaim_offline(writer);
    midge_reclaim_offline(reader);
    midge_reclaim_destroy(reclaim);
}

Test(reclaim, an_offline_participant_holds_nothing_back)
{
    struct midge_reclaim *reclaim = midge_reclaim_create();
    struct midge_participant *writer = midge_reclaim_register(reclaim);
    struct midge_participant *reader = midge_reclaim_register(reclaim);
    uint32_t freed = 0;
    int objects[2];

    midge_reclaim_online(writer);
    midge_reclaim_retire(writer, &objects[0], &freed, count_cb);
    midge_reclaim_quiescent(writer);
    cr_assert_eq(freed, 1, "a participant that never went online");
    midge_reclaim_online(reader);
    midge_reclaim_retire(writer, &objects[1], &freed, count_cb);
    midge_reclaim_quiescent(writer);
    cr_assert_eq(freed, 1);
    midge_reclaim_offline(reader);
    midge_reclaim_quiescent(writer);
    cr_assert_eq(freed, 2, "a participant that went offline");
    midge_reclaim_offline(writer);
    midge_reclaim_destroy(reclaim);
}

Test(reclaim, who_comes_online_after_the_retirement_holds_nothing_back)
{
    struct midge_reclaim *reclaim = midge_reclaim_create();
    struct midge_participant *writer = midge_reclaim_register(reclaim);
    struct midge_participant *blocker = midge_reclaim_register(reclaim);
    struct midge_participant *late = midge_reclaim_register(reclaim);
    uint32_t freed = 0;
    int object;

    midge_reclaim_online(writer);
    midge_reclaim_online(blocker);
    midge_reclaim_retire(writer, &object, &freed, count_cb);
    midge_reclaim_quiescent(writer);
    midge_reclaim_online(late);
    midge_reclaim_offline(blocker);
    midge_reclaim_quiescent(writer);
    cr_assert_eq(freed, 1);
    midge_reclaim_offline(late);
    midge_reclaim_offline(writer);
    midge_reclaim_destroy(reclaim);
}

Test(reclaim, one_call_frees_a_bounded_part_of_a_backlog)
{
    struct midge_reclaim *reclaim = midge_reclaim_create();
    struct midge_participant *participant = midge_reclaim_register(reclaim);
    struct midge_participant *reader = midge_reclaim_register(reclaim);
    uint32_t freed = 0;
    uint32_t call_count = 0;
    int object;

    midge_reclaim_online(participant);
    midge_reclaim_online(reader);
    for (int i = 0; i < 100000; i++)
        midge_reclaim_retire(participant, &object, &freed, count_cb);
    midge_reclaim_quiescent(participant);
    midge_reclaim_offline(reader);
    midge_reclaim_quiescent(participant);
    cr_assert_eq(freed, 1562, "a sixty-fourth");
    cr_assert_eq(midge_reclaim_waiting(participant), 100000 - 1562);
    while (midge_reclaim_waiting(participant) > 0) {
        midge_reclaim_quiescent(participant);
        cr_assert_lt(++call_count, 100);
    }
    cr_assert_eq(freed, 100000);
    midge_reclaim_offline(participant);
    midge_reclaim_destroy(reclaim);
}

Test(reclaim, what_waits_is_no_more_than_a_few_turns_retired)
{
    struct midge_reclaim *reclaim = midge_reclaim_create();
    struct midge_participant *participant = midge_reclaim_register(reclaim);
    struct midge_participant *reader = midge_reclaim_register(reclaim);
    const uint32_t each = 5000;
    uint32_t freed = 0;
    int object;

    midge_reclaim_online(participant);
    midge_reclaim_online(reader);
    for (uint32_t turn = 0; turn < 200; turn++) {
        for (uint32_t i = 0; i < each; i++)
            midge_reclaim_retire(participant, &object, &freed, count_cb);
        midge_reclaim_quiescent(reader);
        midge_reclaim_quiescent(participant);
        /* One turn's are looked for, those of the turn after wait to be. */
        cr_assert_leq(midge_reclaim_waiting(participant), 3 * each, "after turn %u", turn);
    }
    midge_reclaim_offline(reader);
    midge_reclaim_offline(participant);
    midge_reclaim_destroy(reclaim);
    cr_assert_eq(freed, 200 * each);
}

Test(reclaim, a_callback_may_retire_more)
{
    struct midge_reclaim *reclaim = midge_reclaim_create();
    struct chain chain = {.participant = midge_reclaim_register(reclaim), .left = 20};
    int object;

    midge_reclaim_online(chain.participant);
    midge_reclaim_retire(chain.participant, &object, &chain, chain_cb);
    for (int i = 0; i < 10; i++)
        midge_reclaim_quiescent(chain.participant);
    cr_assert_eq(chain.freed, 10);
    midge_reclaim_offline(chain.participant);
    midge_reclaim_destroy(reclaim);
    cr_assert_eq(chain.freed, 21, "destroy runs what is left");
}

Test(reclaim, destroy_frees_what_waits)
{
    struct midge_reclaim *reclaim = midge_reclaim_create();
    struct midge_participant *writer = midge_reclaim_register(reclaim);
    struct midge_participant *reader = midge_reclaim_register(reclaim);
    uint32_t freed = 0;
    int object;

    midge_reclaim_online(writer);
    midge_reclaim_online(reader);
    for (int i = 0; i < 500; i++)
        midge_reclaim_retire(writer, &object, &freed, count_cb);
    midge_reclaim_quiescent(writer);
    for (int i = 0; i < 500; i++)
        midge_reclaim_retire(writer, &object, &freed, count_cb);
    cr_assert_eq(freed, 0);
    midge_reclaim_offline(writer);
    midge_reclaim_offline(reader);
    midge_reclaim_destroy(reclaim);
    cr_assert_eq(freed, 1000);
}

Test(reclaim, only_so_many_participants_register)
{
    struct midge_reclaim *reclaim = midge_reclaim_create();

    for (uint32_t i = 0; i < MIDGE_SHARDS_MAX; i++)
        cr_assert_not_null(midge_reclaim_register(reclaim));
    cr_assert_null(midge_reclaim_register(reclaim));
    midge_reclaim_destroy(reclaim);
}

Test(reclaim, online_is_what_was_said_last)
{
    struct midge_reclaim *reclaim = midge_reclaim_create();
    struct midge_participant *participant = midge_reclaim_register(reclaim);

    cr_assert_not(midge_reclaim_is_online(participant));
    midge_reclaim_online(participant);
    cr_assert(midge_reclaim_is_online(participant));
    midge_reclaim_offline(participant);
    cr_assert_not(midge_reclaim_is_online(participant));
    midge_reclaim_destroy(reclaim);
}
