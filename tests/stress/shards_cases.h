/*
 * The cases of stress_shards. Each one starts the rig, which is given with its configuration and
 * not yet started, and stops it.
 */
#ifndef MIDGE_SHARDS_CASES_H
#define MIDGE_SHARDS_CASES_H

#include "shards_rig.h"

/* shards_order.c */
void midge_case_order(struct midge_rig *rig);
void midge_case_grid(struct midge_rig *rig);
void midge_case_handover(struct midge_rig *rig);
void midge_case_quiet(struct midge_rig *rig);

/* shards_request.c */
void midge_case_request(struct midge_rig *rig);
void midge_case_turnover(struct midge_rig *rig);

/* shards_queue.c */
void midge_case_queue(struct midge_rig *rig);
void midge_case_echo(struct midge_rig *rig);

/* shards_fence.c */
void midge_case_fence(struct midge_rig *rig);
void midge_case_again(struct midge_rig *rig);

/* shards_storm.c */
void midge_case_storm(struct midge_rig *rig);

/* shards_load.c */
void midge_case_pressure(struct midge_rig *rig);
void midge_case_churn(struct midge_rig *rig);
void midge_case_memory(struct midge_rig *rig);

#endif
