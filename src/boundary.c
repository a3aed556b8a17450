/*-------------------------------------------------------------------------
 *
 * boundary.c
 *	  The error boundary of a unit of work.
 *
 * One bad contact, reply or campaign must not stop the others, so what a unit
 * does in the database happens in an internal subtransaction. (Aborting the main
 * transaction instead would silently drop the session's locks.) The abort
 * puts back the identity, the settings and the locks of the beginning.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "utils/resowner.h"

#include "mailchimp_sync.h"

/*
 * A cancelled query is meant for all of it, not for the unit that happened to
 * run. Termination is FATAL and never comes by here.
 */
static bool
must_pass(const ErrorData *error)
{
	return error->sqlerrcode == ERRCODE_QUERY_CANCELED;
}

bool
mc_try(void (*fn)(void *arg), void *arg, ErrorData **error)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData *volatile caught = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		fn(arg);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		caught = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();

	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	if (caught != NULL && must_pass(caught))
		ReThrowError(caught);
	*error = caught;
	return caught == NULL;
}
