/*-------------------------------------------------------------------------
 *
 * advisory.h
 *	  The advisory locks of this session, remembered and put back.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MC_ADVISORY_H
#define MC_ADVISORY_H

typedef struct McAdvisoryLocks McAdvisoryLocks;

/* Which there are now, in the current memory context. */
extern McAdvisoryLocks *mc_advisory_locks(void);

/*
 * Lets go the session-level locks that were taken since, and takes back those that
 * were released. Outside of the (sub)transaction in which that happened.
 */
extern void mc_advisory_locks_restore(const McAdvisoryLocks *before);

#endif /* MC_ADVISORY_H */
