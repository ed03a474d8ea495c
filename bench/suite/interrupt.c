/* SIGINT and SIGTERM; see interrupt.h. */
#include "interrupt.h"

#include <signal.h>
#include <stddef.h>

static volatile sig_atomic_t signal_seen;

static void note(int number)
{
    if (signal_seen == 0)
        signal_seen = number;
}

static void install(int number)
{
    /* No SA_RESTART: a sleep ends. Not once only: timeout(1) sends its signal twice. */
    struct sigaction action = {.sa_handler = note};
    struct sigaction before;

    (void)sigemptyset(&action.sa_mask);
    if (sigaction(number, NULL, &before) == 0 && before.sa_handler != SIG_IGN)
        (void)sigaction(number, &action, NULL);
}

void midge_interrupt_install(void)
{
    install(SIGINT);
    install(SIGTERM);
}

int midge_interrupt_signal(void)
{
    return signal_seen;
}
