/* What a comparison should show; see aim.h. */
#include "aim.h"

#include <stdlib.h>
#include <string.h>

#include "metric.h"

enum midge_status midge_aim_parse(const char *text, struct midge_aim *aim_out)
{
    const size_t name_len = strcspn(text, "<>");
    char name[16];
    char *end = NULL;

    if (name_len >= sizeof name || text[name_len] == '\0' || text[name_len + 1] != '=')
        return MIDGE_E_CONFIG;
    memcpy(name, text, name_len);
    name[name_len] = '\0';
    *aim_out = (struct midge_aim){.is_least = text[name_len] == '>'};
    if (midge_metric_find(name, &aim_out->metric) != MIDGE_OK)
        return MIDGE_E_CONFIG;
    text += name_len + 2;
    if (*text < '0' || *text > '9')
        return MIDGE_E_CONFIG;
    aim_out->limit = strtod(text, &end);
    if (*end == '\0')
        return MIDGE_OK;
    if (*end != '*' || end[1] == '\0' || strlen(end + 1) >= sizeof aim_out->base)
        return MIDGE_E_CONFIG;
    memcpy(aim_out->base, end + 1, strlen(end + 1) + 1);
    return MIDGE_OK;
}

static bool is_text(const json_t *object, const char *key, const char *text)
{
    const char *value = json_string_value(json_object_get(object, key));

    return value != NULL && strcmp(value, text) == 0;
}

/* The ratio of the first server over the base, or NULL. */
static const json_t *find_ratio(const struct midge_aim *aim, const json_t *ratios)
{
    const json_t *ratio = NULL;
    size_t index = 0;

    json_array_foreach(ratios, index, ratio)
    {
        if (is_text(ratio, "subject", "a") && is_text(ratio, "base", aim->base) &&
            is_text(ratio, "metric", midge_metrics[aim->metric].name))
            return ratio;
    }
    return NULL;
}

static bool is_of_all_rounds(const json_t *found)
{
    return json_integer_value(json_object_get(found, "rounds")) ==
           json_integer_value(json_object_get(found, "round_count"));
}

json_t *midge_aim_judge(const struct midge_aim *aim, const json_t *summary, const json_t *ratios)
{
    const bool is_ratio = aim->base[0] != '\0';
    const json_t *found =
        is_ratio ? find_ratio(aim, ratios)
                 : json_object_get(json_object_get(summary, "a"), midge_metrics[aim->metric].name);
    const json_t *value = json_object_get(found, is_ratio ? "middle" : "median");
    const double number = json_number_value(value);
    const bool is_met = aim->is_least ? number >= aim->limit : number <= aim->limit;
    /* Rounds in which a figure is known may be the good ones, and few of them are chance. */
    const bool is_whole = json_is_number(value) && is_of_all_rounds(found) &&
                          (!is_ratio || json_is_number(json_object_get(found, "low")));
    const bool is_failed = json_integer_value(json_object_get(found, "failed_rounds")) > 0;

    return json_pack(
        "{s:s, s:f, s:b, s:s?, s:O?, s:O?, s:O?, s:o, s:b}", "metric",
        midge_metrics[aim->metric].name, "limit", aim->limit, "is_least", (int)aim->is_least,
        "base", is_ratio ? aim->base : NULL, "value", value, "low",
        is_ratio ? json_object_get(found, "low") : json_object_get(found, "min"), "high",
        is_ratio ? json_object_get(found, "high") : json_object_get(found, "max"), "is_met",
        is_whole && !is_failed ? json_boolean(is_met) : json_null(), "is_failed", (int)is_failed);
}
