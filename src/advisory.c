/*-------------------------------------------------------------------------
 *
 * advisory.c
 *	  The advisory locks of this session, remembered and put back.
 *
 * Session-level advisory locks are the one thing of the database that a
 * function can take and no rollback takes away; and any function can release those that
 * its caller has. Transaction-level ones need no care: they go with the
 * subtransaction that took them, and nobody can release them.
 *
 * We look at the locks of our own process only (pg_locks would walk the lock
 * table of the whole server, with all its partitions locked). How often a
 * lock is held is not looked at: one that was held before may be held once more or
 * less often.
 *
 * Race: a lock that an expression released may have been taken by somebody
 * else before we take it back. Then the session has lost it, and a warning says so.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/lock.h"
#include "storage/lwlock.h"
#include "storage/proc.h"

#include "advisory.h"
#include "compat.h"

typedef struct HeldLock
{
	LOCKTAG tag;
	LOCKMODE mode;
} HeldLock;

struct McAdvisoryLocks
{
	int n;
	int capacity;
	HeldLock *locks;
};

static void
remember(McAdvisoryLocks *held, const LOCKTAG *tag, LOCKMODE mode)
{
	if (held->n == held->capacity)
	{
		held->capacity *= 2;
		held->locks = repalloc(held->locks, held->capacity * sizeof(HeldLock));
	}
	held->locks[held->n].tag = *tag;
	held->locks[held->n].mode = mode;
	held->n++;
}

/*
 * Only we ourselves take advisory locks for our process, but other processes
 * move its fast-path locks to the same lists: so the partition is locked.
 */
McAdvisoryLocks *
mc_advisory_locks(void)
{
	McAdvisoryLocks *held = palloc(sizeof(McAdvisoryLocks));

	held->n = 0;
	held->capacity = 8;
	held->locks = palloc(held->capacity * sizeof(HeldLock));
	for (int partition = 0; partition < NUM_LOCK_PARTITIONS; partition++)
	{
		LWLock *guard = LockHashPartitionLockByIndex(partition);
		PROCLOCK *lock = NULL;

		LWLockAcquire(guard, LW_SHARED);
		while ((lock = mc_next_own_lock(partition, lock)) != NULL)
		{
			const LOCKTAG *tag = &lock->tag.myLock->tag;

			if (tag->locktag_type != LOCKTAG_ADVISORY)
				continue;
			for (LOCKMODE mode = 1; mode <= MaxLockMode; mode++)
				if (lock->holdMask & LOCKBIT_ON(mode))
					remember(held, tag, mode);
		}
		LWLockRelease(guard);
	}
	return held;
}

static bool
contains(const McAdvisoryLocks *held, const HeldLock *lock)
{
	for (int i = 0; i < held->n; i++)
		if (held->locks[i].mode == lock->mode &&
			memcmp(&held->locks[i].tag, &lock->tag, sizeof(LOCKTAG)) == 0)
			return true;
	return false;
}

void
mc_advisory_locks_restore(const McAdvisoryLocks *before)
{
	McAdvisoryLocks *now = mc_advisory_locks();

	for (int i = 0; i < now->n; i++)
	{
		HeldLock *lock = &now->locks[i];

		if (!contains(before, lock))
			while (LockHeldByMe(&lock->tag, lock->mode, false))
				(void) LockRelease(&lock->tag, lock->mode, true);
	}
	for (int i = 0; i < before->n; i++)
	{
		HeldLock *lock = &before->locks[i];

		if (!contains(now, lock) &&
			LockAcquire(&lock->tag, lock->mode, true, true) == LOCKACQUIRE_NOT_AVAIL)
			ereport(WARNING, (errcode(ERRCODE_LOCK_NOT_AVAILABLE),
							  errmsg("an expression released an advisory lock of this session, "
									 "and another session has taken it")));
	}
}
