/* Names and texts of the outcomes, from the one table in status.h. */
#include "midge/status_peer.h"

/* The table gives one case per row, and rows may agree: NOLINTBEGIN(bugprone-branch-clone) */

const char *midge_status_name(enum midge_status status)
{
    switch (status) {
#define STATUS_NAME(name, value, closes, text)                                                     \
    case MIDGE_##name:                                                                             \
        return #name;
        MIDGE_STATUS_TABLE(STATUS_NAME)
#undef STATUS_NAME
    }
    return "?";
}

const char *midge_status_text(enum midge_status status)
{
    switch (status) {
#define STATUS_TEXT(name, value, closes, text)                                                     \
    case MIDGE_##name:                                                                             \
        return text;
        MIDGE_STATUS_TABLE(STATUS_TEXT)
#undef STATUS_TEXT
    }
    return "";
}

bool midge_status_closes(enum midge_status status)
{
    switch (status) {
#define STATUS_CLOSES(name, value, closes, text)                                                   \
    case MIDGE_##name:                                                                             \
        return closes;
        MIDGE_STATUS_TABLE(STATUS_CLOSES)
#undef STATUS_CLOSES
    }
    return true;
}

/* NOLINTEND(bugprone-branch-clone) */
