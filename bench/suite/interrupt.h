/*
 * SIGINT and SIGTERM: what runs is ended, and what has been measured so far is written.
 *
 * The handler sets a flag and nothing else; whoever waits looks at it. It is the signal flag of
 * midge-bench, the one global that changes.
 *
 * Thread: any. A process that is forked inherits the handler: one that must end at a signal resets
 * it.
 */
#ifndef MIDGE_INTERRUPT_H
#define MIDGE_INTERRUPT_H

/** Handle SIGINT and SIGTERM from now on, but for one that is ignored (as by a shell in the
 * background). Calls that sleep return with EINTR. */
void midge_interrupt_install(void);

/** @return the signal that came first; 0 = none */
int midge_interrupt_signal(void);

#endif
