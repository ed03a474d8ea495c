/* The signal flag. Method: signals to the process of the test itself; Criterion gives each its own.
 */
#include <criterion/criterion.h>
#include <signal.h>

#include "interrupt.h"

Test(interrupt, none_has_come_at_first)
{
    midge_interrupt_install();
    cr_assert_eq(midge_interrupt_signal(), 0);
}

Test(interrupt, the_first_signal_is_kept_and_none_ends_the_process)
{
    midge_interrupt_install();
    cr_assert_eq(raise(SIGTERM), 0);
    cr_assert_eq(raise(SIGINT), 0);
    cr_assert_eq(raise(SIGTERM), 0);
    cr_assert_eq(midge_interrupt_signal(), SIGTERM);
}

Test(interrupt, a_signal_that_is_ignored_stays_ignored)
{
    (void)signal(SIGINT, SIG_IGN);
    midge_interrupt_install();
    cr_assert_eq(raise(SIGINT), 0);
    cr_assert_eq(midge_interrupt_signal(), 0);
}
