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

/* Somebody's open transaction was in the way: to be tried again soon, and nothing to report. */
bool
mc_is_contention(const ErrorData *error)
{
	return error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE ||
		   ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_TRANSACTION_ROLLBACK;
}

/* Messages and contexts of these classes quote values, which are people's names and addresses. */
static bool
quotes_values(const ErrorData *error)
{
	int category = ERRCODE_TO_CATEGORY(error->sqlerrcode);

	return category == ERRCODE_DATA_EXCEPTION || category == ERRCODE_INTEGRITY_CONSTRAINT_VIOLATION;
}

/* What the server's log may hold of an error: its words, and as part of an ereport its context. */
const char *
mc_loggable(const ErrorData *error)
{
	if (quotes_values(error))
		return psprintf("SQLSTATE %s", unpack_sql_state(error->sqlerrcode));
	return error->message;
}

int
mc_loggable_context(const ErrorData *error)
{
	if (error->context == NULL || quotes_values(error))
		return 0;
	return errcontext("%s", error->context);
}
