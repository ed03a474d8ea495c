/*
 * A server's stream gives the same operations however it is cut.
 *
 * Input: three bytes that choose the limits and the seed of the cuts, then the stream. It is fed
 * whole, byte by byte and in chunks of random length; the three traces must be the same text.
 * Chunks are allocations of exactly their length, and server_parser_trace.c checks what the header
 * promises of each call.
 */
#include "midge/server_parser.h"

#include "midge/limits.h"
#include "server_parser_trace.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define OPTIONS_LEN    3u
#define STREAM_LEN_MAX 16384u
#define CUTS_MAX       1024u

static uint32_t next_random(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u; /* Numerical Recipes; the high bits are good enough */
    return *state >> 16;
}

/* Random cuts: mostly short chunks, some empty, now and then a long one. */
static uint32_t make_cuts(uint32_t random, uint32_t len, uint32_t cuts[CUTS_MAX])
{
    uint32_t count = 0;
    uint32_t off = 0;

    while (count < CUTS_MAX && off < len) {
        const uint32_t span = next_random(&random) % 8 == 0 ? 256 : 8;

        off += next_random(&random) % span;
        cuts[count++] = off;
    }
    return count;
}

static void expect_same(const char *want, char *text)
{
    MIDGE_ASSERT(strcmp(want, text) == 0);
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint32_t line_maxima[] = {1u << 20, 1, 8, 16, 32, 64, 128, 1024};
    struct midge_server_parser_limits limits;
    struct midge_slice stream;
    uint32_t cuts[CUTS_MAX];
    uint32_t cut_count;
    char *want;

    if (size < OPTIONS_LEN || size > OPTIONS_LEN + STREAM_LEN_MAX)
        return 0;
    limits = (struct midge_server_parser_limits){
        .line_len_max = line_maxima[data[0] % 8],
        .message_len_max = data[1] == 0 ? MIDGE_PAYLOAD_MAX : data[1],
    };
    stream = midge_slice_make(data + OPTIONS_LEN, (uint32_t)(size - OPTIONS_LEN));
    cut_count = make_cuts(data[2], stream.len, cuts);

    want = midge_server_parser_trace(&limits, stream, NULL, 0);
    expect_same(want, midge_server_parser_trace(&limits, stream, cuts, cut_count));
    expect_same(want, midge_server_parser_trace_bytes(&limits, stream));
    free(want);
    return 0;
}
