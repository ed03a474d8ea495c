/* Requests under way; see driver_internal.h. */
#include <stdlib.h>
#include <string.h>

#include "driver_internal.h"

#define NO_INDEX UINT32_MAX

struct midge_driver_flight {
    uint64_t until_ns;
    uint32_t number; /* the next one, while it is free; slot_count more each time */
    bool is_open;
    uint32_t newer_index; /* of those under way; while it is free, of the list of free ones */
    uint32_t older_index;
};

enum midge_status midge_driver_flights_init(struct midge_driver_flights *flights,
                                            uint32_t count_max)
{
    uint32_t slot_count = 1;
    struct midge_driver_flight *slots;

    MIDGE_ASSERT(count_max > 0);
    MIDGE_ASSERT(count_max <= MIDGE_DRIVER_FLIGHTS_MAX);
    while (slot_count < count_max)
        slot_count *= 2;
    slots = (struct midge_driver_flight *)calloc(slot_count, sizeof *slots);
    if (slots == NULL)
        return MIDGE_E_MEMORY;
    for (uint32_t i = 0; i < slot_count; i++) {
        slots[i].number = i;
        slots[i].newer_index = i + 1 == slot_count ? NO_INDEX : i + 1;
    }
    *flights = (struct midge_driver_flights){
        .slots = slots,
        .slot_count = slot_count,
        .count_max = count_max,
        .oldest_index = NO_INDEX,
        .newest_index = NO_INDEX,
    };
    return MIDGE_OK;
}

void midge_driver_flights_deinit(struct midge_driver_flights *flights)
{
    free(flights->slots);
    *flights = (struct midge_driver_flights){.slots = NULL};
}

bool midge_driver_flights_begin(struct midge_driver_flights *flights, uint64_t until_ns,
                                uint32_t *number_out)
{
    const uint32_t index = flights->free_index;
    struct midge_driver_flight *flight;

    if (flights->count == flights->count_max)
        return false;
    MIDGE_ASSERT(index != NO_INDEX);
    flight = &flights->slots[index];
    flights->free_index = flight->newer_index;
    flight->until_ns = until_ns;
    flight->is_open = true;
    flight->newer_index = NO_INDEX;
    flight->older_index = flights->newest_index;
    if (flights->newest_index == NO_INDEX)
        flights->oldest_index = index;
    else
        flights->slots[flights->newest_index].newer_index = index;
    flights->newest_index = index;
    flights->count++;
    *number_out = flight->number;
    return true;
}

static void end(struct midge_driver_flights *flights, uint32_t index)
{
    struct midge_driver_flight *flight = &flights->slots[index];

    if (flight->older_index == NO_INDEX)
        flights->oldest_index = flight->newer_index;
    else
        flights->slots[flight->older_index].newer_index = flight->newer_index;
    if (flight->newer_index == NO_INDEX)
        flights->newest_index = flight->older_index;
    else
        flights->slots[flight->newer_index].older_index = flight->older_index;
    flight->is_open = false;
    flight->number = (flight->number + flights->slot_count) & MIDGE_DRIVER_NUMBER_MASK;
    flight->newer_index = flights->free_index;
    flights->free_index = index;
    flights->count--;
}

bool midge_driver_flights_end(struct midge_driver_flights *flights, uint32_t number)
{
    uint32_t index;

    if (flights->slots == NULL)
        return false;
    index = number & (flights->slot_count - 1);
    if (!flights->slots[index].is_open || flights->slots[index].number != number)
        return false;
    end(flights, index);
    return true;
}

bool midge_driver_flights_expire(struct midge_driver_flights *flights, uint64_t now_ns)
{
    if (flights->count == 0 || flights->slots[flights->oldest_index].until_ns > now_ns)
        return false;
    end(flights, flights->oldest_index);
    return true;
}

uint64_t midge_driver_flights_until_ns(const struct midge_driver_flights *flights)
{
    return flights->count == 0 ? UINT64_MAX : flights->slots[flights->oldest_index].until_ns;
}

void midge_driver_put_number(uint8_t out[MIDGE_DRIVER_NUMBER_LEN], uint32_t number)
{
    static const char hexadecimal[] = "0123456789abcdef";

    for (uint32_t i = MIDGE_DRIVER_NUMBER_LEN; i > 0; i--) {
        out[i - 1] = (uint8_t)hexadecimal[number & 15];
        number >>= 4;
    }
}

bool midge_driver_get_number(const uint8_t digits[MIDGE_DRIVER_NUMBER_LEN], uint32_t *number_out)
{
    uint32_t number = 0;

    for (uint32_t i = 0; i < MIDGE_DRIVER_NUMBER_LEN; i++) {
        const uint8_t digit = digits[i];

        if (digit >= '0' && digit <= '9')
            number = number << 4 | (uint32_t)(digit - '0');
        else if (digit >= 'a' && digit <= 'f')
            number = number << 4 | (uint32_t)(digit - 'a' + 10);
        else
            return false;
    }
    *number_out = number;
    return true;
}
