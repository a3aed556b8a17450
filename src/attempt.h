/*-------------------------------------------------------------------------
 *
 * attempt.h
 *	  Running what others wrote as the role that it belongs to.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MC_ATTEMPT_H
#define MC_ATTEMPT_H

#include "postgres.h"

#include "utils/timestamp.h"

#include "advisory.h"

typedef struct McAttempt
{
	Oid role;
	bool writes;			 /* and is kept; else read only, and rolled back */
	const char *search_path; /* where it writes, with pg_temp last */
	TimestampTz deadline;
	McAdvisoryLocks *locks; /* that the session held before */
	MemoryContext scratch;	/* where errors are put; whoever attempts resets and deletes it */
} McAttempt;

/* With mailchimp_sync.expression_timeout from now on, to read. */
extern void mc_attempt_prepare(McAttempt *attempt, Oid role);

/*
 * Runs work in the scratch context; NULL, or what went wrong. A request to
 * cancel that came meanwhile is raised.
 */
extern ErrorData *mc_attempt(const McAttempt *attempt, void (*work)(void *arg), void *arg);

#endif /* MC_ATTEMPT_H */
