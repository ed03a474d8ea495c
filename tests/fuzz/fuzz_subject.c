/*
 * The rules of subjects against a twin that splits into tokens first.
 *
 * Input: one byte that says how much of the rest is the pattern; what is left is the subject.
 */
#include "midge/subject.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define LEN_MAX 4096u

struct tokens {
    struct midge_slice list[LEN_MAX + 1];
    uint32_t count;
};

static void tokens_split(struct tokens *tokens, struct midge_slice subject)
{
    uint32_t begin = 0;

    tokens->count = 0;
    for (uint32_t end = 0; end <= subject.len; end++) {
        if (end < subject.len && subject.base[end] != '.')
            continue;
        tokens->list[tokens->count++] = midge_slice_make(subject.base + begin, end - begin);
        begin = end + 1;
    }
}

static bool is_wildcard(struct midge_slice token)
{
    return token.len == 1 && (token.base[0] == '*' || token.base[0] == '>');
}

static bool is_tail(struct midge_slice token)
{
    return token.len == 1 && token.base[0] == '>';
}

static bool twin_is_routable(const struct tokens *tokens)
{
    for (uint32_t i = 0; i < tokens->count; i++) {
        if (tokens->list[i].len == 0)
            return false;
    }
    return true;
}

static bool twin_is_valid(const struct tokens *tokens)
{
    for (uint32_t i = 0; i < tokens->count; i++) {
        if (is_tail(tokens->list[i]) && i + 1 != tokens->count)
            return false;
    }
    return twin_is_routable(tokens);
}

static bool twin_has_wildcard(const struct tokens *tokens)
{
    for (uint32_t i = 0; i < tokens->count; i++) {
        if (is_wildcard(tokens->list[i]))
            return true;
    }
    return false;
}

static bool twin_matches(const struct tokens *pattern, const struct tokens *subject)
{
    for (uint32_t i = 0; i < pattern->count; i++) {
        if (i == subject->count)
            return false;
        if (is_tail(pattern->list[i]))
            return true;
        if (!is_wildcard(pattern->list[i]) &&
            !midge_slice_equal(pattern->list[i], subject->list[i]))
            return false;
    }
    return pattern->count == subject->count;
}

/* A copy of exactly its length, so that AddressSanitizer sees a read past the end. */
static struct midge_slice copy_of(const uint8_t *bytes, uint32_t len)
{
    uint8_t *copy = malloc(len > 0 ? len : 1);

    MIDGE_ASSERT(copy != NULL);
    if (len > 0)
        memcpy(copy, bytes, len);
    return midge_slice_make(copy, len);
}

static void free_copy(struct midge_slice copy)
{
    uint8_t *base;

    memcpy(&base, &copy.base, sizeof(base)); /* style: drops const of what copy_of() allocated */
    free(base);
}

static void check_one(struct midge_slice subject, const struct tokens *tokens)
{
    MIDGE_ASSERT(midge_subject_is_valid(subject) == twin_is_valid(tokens));
    MIDGE_ASSERT(midge_subject_is_routable(subject) == twin_is_routable(tokens));
    MIDGE_ASSERT(midge_subject_has_wildcard(subject) == twin_has_wildcard(tokens));
    MIDGE_ASSERT(midge_subject_is_literal(subject) ==
                 (twin_is_routable(tokens) && !twin_has_wildcard(tokens)));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct tokens pattern_tokens;
    static struct tokens subject_tokens;
    struct midge_slice pattern;
    struct midge_slice subject;
    uint32_t pattern_len;

    if (size < 1 || size > LEN_MAX)
        return 0;
    pattern_len = data[0] % (uint32_t)size;
    pattern = copy_of(data + 1, pattern_len);
    subject = copy_of(data + 1 + pattern_len, (uint32_t)size - 1 - pattern_len);
    tokens_split(&pattern_tokens, pattern);
    tokens_split(&subject_tokens, subject);

    check_one(pattern, &pattern_tokens);
    check_one(subject, &subject_tokens);
    if (twin_is_valid(&pattern_tokens) && twin_is_routable(&subject_tokens))
        MIDGE_ASSERT(midge_subject_matches(pattern, subject) ==
                     twin_matches(&pattern_tokens, &subject_tokens));
    else if (pattern.len > 0 && subject.len > 0)
        (void)midge_subject_matches(pattern, subject);

    free_copy(pattern);
    free_copy(subject);
    return 0;
}
