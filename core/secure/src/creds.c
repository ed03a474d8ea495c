/* Credentials files. See midge/creds.h. */
#include "midge/creds.h"

/* Bytes of a seed: 36 in base32. */
#define SEED_LEN 58u

static bool is_blank(uint8_t byte)
{
    return byte == ' ' || byte == '\t' || byte == '\r';
}

static struct midge_slice trim(struct midge_slice text)
{
    while (text.len > 0 && is_blank(text.base[0]))
        text = midge_slice_make(text.base + 1, text.len - 1);
    while (text.len > 0 && is_blank(text.base[text.len - 1]))
        text.len--;
    return text;
}

/* Take the next line that is not empty, without blanks around it. */
static bool next_line(struct midge_slice *text, struct midge_slice *line_out)
{
    while (text->len > 0) {
        const uint8_t *end = memchr(text->base, '\n', text->len);
        const uint32_t len = end == NULL ? text->len : (uint32_t)(end - text->base);
        const uint32_t used = end == NULL ? len : len + 1;

        *line_out = trim(midge_slice_make(text->base, len));
        *text = midge_slice_make(text->base + used, text->len - used);
        if (line_out->len > 0)
            return true;
    }
    return false;
}

static bool has_word(struct midge_slice line, const char *word)
{
    return memmem(line.base, line.len, word, strlen(word)) != NULL;
}

static bool is_border(struct midge_slice line)
{
    return midge_slice_starts_with(line, MIDGE_SLICE_LITERAL("---"));
}

/* A seed without its borders: one word that starts with S. */
static bool is_seed(struct midge_slice line)
{
    return line.len == SEED_LEN && line.base[0] == 'S' && memchr(line.base, ' ', line.len) == NULL;
}

enum midge_status midge_creds_parse(struct midge_slice text, struct midge_slice *jwt_out,
                                    struct midge_slice *seed_out)
{
    struct midge_slice jwt = {0};
    struct midge_slice seed = {0};
    struct midge_slice line;
    bool is_jwt_next = false;
    bool is_seed_next = false;

    while (next_line(&text, &line)) {
        if (is_border(line)) {
            is_jwt_next = has_word(line, "BEGIN") && has_word(line, "JWT");
            is_seed_next = has_word(line, "BEGIN") && has_word(line, "SEED");
        } else if (is_jwt_next && jwt.len == 0) {
            jwt = line;
        } else if ((is_seed_next || is_seed(line)) && seed.len == 0) {
            seed = line;
        }
    }
    if (seed.len == 0)
        return MIDGE_E_CONFIG;
    *jwt_out = jwt;
    *seed_out = seed;
    return MIDGE_OK;
}
