/*
 * Memory of connected clients: resident memory of this process with so many of them, less what it
 * had with one, for each.
 *
 * Every client has made requests before, as many as asked for, so that it has touched what it
 * touches in use; and in the end every one must still get its reply.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "load.h"
#include "process.h"
#include "wire.h"

struct run {
    const struct midge_load_options *options; /* borrow */
    struct midge_library **libraries;         /* own; clients + 1 */
    uint8_t *payload;                         /* own */
    uint64_t next_number;
    uint64_t resident_each;
};

static enum midge_status exchange(struct run *run, struct midge_library *library)
{
    const struct midge_slice payload = midge_slice_make(run->payload, run->options->size);
    const uint64_t number = run->next_number++;
    struct midge_slice reply;

    midge_wire_put_number(run->payload, MIDGE_WIRE_NUMBER_LEN, number);
    const enum midge_status status = midge_library_request(library, payload, &reply);

    if (status != MIDGE_OK)
        return midge_load_complain_of(status, "no reply", number);
    return midge_slice_equal(payload, reply)
               ? MIDGE_OK
               : midge_load_complain_of(MIDGE_E_PARSE, "wrong reply", number);
}

static enum midge_status open_one(struct run *run, uint32_t index)
{
    enum midge_status status = midge_library_open(&run->options->library, &run->libraries[index]);

    for (uint32_t i = 0; i < run->options->count && status == MIDGE_OK; i++)
        status = exchange(run, run->libraries[index]);
    return status;
}

static enum midge_status read_resident(uint64_t *len_out)
{
    const enum midge_status status = midge_process_resident(getpid(), len_out);

    return status == MIDGE_OK ? status : midge_load_complain(status, "memory", strerror(errno));
}

static enum midge_status measure(struct run *run)
{
    const uint32_t clients = run->options->clients;

    MIDGE_ASSERT(clients > 0);
    uint64_t before = 0;
    uint64_t after = 0;
    enum midge_status status = open_one(run, 0);

    if (status == MIDGE_OK)
        status = read_resident(&before);
    for (uint32_t i = 1; i <= clients && status == MIDGE_OK; i++)
        status = open_one(run, i);
    if (status == MIDGE_OK)
        status = read_resident(&after);
    if (status == MIDGE_OK)
        run->resident_each = after > before ? (after - before) / clients : 0;
    for (uint32_t i = 0; i <= clients && status == MIDGE_OK; i++) {
        status = exchange(run, run->libraries[i]);
        if (status == MIDGE_OK)
            status = midge_load_check_end(run->libraries[i]);
    }
    return status;
}

static bool allocate(struct run *run)
{
    const size_t count = (size_t)run->options->clients + 1;

    run->payload = (uint8_t *)malloc(run->options->size);
    run->libraries = (struct midge_library **)calloc(count, sizeof(struct midge_library *));
    if (run->payload == NULL || run->libraries == NULL)
        return false;
    midge_wire_put_filler(run->payload, run->options->size);
    return true;
}

enum midge_status midge_load_mem(const struct midge_load_options *options)
{
    struct run run = {.options = options};
    enum midge_status status = MIDGE_E_MEMORY;
    pid_t pid = 0;

    if (!allocate(&run)) {
        (void)midge_load_complain(status, "mem", "no memory");
        goto out;
    }
    status = midge_load_start_responder(options, &pid);
    if (status == MIDGE_OK)
        status = measure(&run);
    for (uint32_t i = 0; i <= options->clients; i++)
        midge_library_close(run.libraries[i]);
    if (pid != 0 && !midge_process_end(pid) && status == MIDGE_OK)
        status = midge_load_complain(MIDGE_E_PARSE, "mem", "the responder failed");
    if (status == MIDGE_OK) {
        midge_load_report_begin(options, "mem");
        midge_load_report_put(options, "clients", options->clients);
        midge_load_report_put(options, "resident_each", run.resident_each);
        midge_load_report_end(options);
    }
out:
    free(run.libraries);
    free(run.payload);
    return status;
}
