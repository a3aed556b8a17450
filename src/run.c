/*-------------------------------------------------------------------------
 *
 * run.c
 *	  CALL mc_run(): the engine in the caller's session (N15); the lock that
 *	  makes it the only one of its database.
 *
 * The singleton is a session-level lock on (pg_extension, oid, objsubid 1): an
 * advisory lock could be taken or freed by any role, and objsubid 0 is what
 * DROP EXTENSION locks. A session lock outlives errors, and leaks if the process
 * ends outside of a transaction, so it is freed in PG_FINALLY and by an exit
 * callback.
 *
 * mc_run takes the owner's identity within each transaction (engine.c) and is
 * the caller again at each commit; a SECURITY DEFINER or SET clause would make
 * CALL atomic. Transactions are read committed whatever the session's default:
 * the engine has to see what others committed. Each has a connection to SPI of its
 * own, or all results of a long run would be kept to its end.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_extension.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lock.h"
#include "tcop/utility.h"
#include "utils/memutils.h"
#include "utils/guc.h"
#include "utils/wait_event.h"

#include "engine.h"
#include "gate.h"
#include "mailchimp_sync.h"
#include "slot.h"

/* while another engine works: how often to look how far it is */
#define WATCH_MS 250

PG_FUNCTION_INFO_V1(mc_run);

/* ---- the singleton ---- */

static Oid locked_extension = InvalidOid;

static void
set_tag(LOCKTAG *tag, Oid extension)
{
	SET_LOCKTAG_OBJECT(*tag, MyDatabaseId, ExtensionRelationId, extension, 1);
}

void
mc_engine_unlock(void)
{
	LOCKTAG tag;

	if (!OidIsValid(locked_extension))
		return;
	set_tag(&tag, locked_extension);
	LockRelease(&tag, ExclusiveLock, true);
	locked_extension = InvalidOid;
	mc_slots_release();
	mc_engine_unregister();
}

static void
unlock_at_exit(int code, Datum arg)
{
	mc_engine_unlock();
}

bool
mc_engine_lock(Oid extension, bool is_worker)
{
	static bool registered = false;
	LOCKTAG tag;

	if (!registered)
	{
		before_shmem_exit(unlock_at_exit, (Datum) 0);
		registered = true;
	}
	set_tag(&tag, extension);
	if (LockAcquire(&tag, ExclusiveLock, true, true) == LOCKACQUIRE_NOT_AVAIL)
		return false;
	locked_extension = extension;
	mc_engine_register(is_worker);
	return true;
}

/* ---- the procedure ---- */

/*
 * There is a transaction already, begun by CALL or by the last commit before a
 * wait that may have been long: it is ended, so that the clock, the start of the
 * transaction, is right.
 */
static void
run_begin(void)
{
	if (SPI_connect_ext(SPI_OPT_NONATOMIC) != SPI_OK_CONNECT)
		elog(ERROR, "could not connect to SPI");
	SPI_commit();
	SPI_start_transaction();
	XactIsoLevel = XACT_READ_COMMITTED;
}

/* From 15 on a commit begins the next transaction itself; CALL wants one at its end. */
static void
run_commit(void)
{
	SPI_commit();
	SPI_start_transaction();
	SPI_finish();
}

static const McTransaction run_transaction = {run_begin, run_commit};

/*
 * Another engine, the worker mostly, does the work: it is woken, and we tell
 * how far it is until nothing is due (false) or it is gone.
 */
static bool
take_over(McEngine *engine)
{
	while (!mc_engine_lock(mc_engine_extension(engine), false))
	{
		mc_engine_wake(MyDatabaseId);
		if (!mc_engine_watch(engine))
			return false;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, WATCH_MS,
						 PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	return true;
}

Datum
mc_run(PG_FUNCTION_ARGS)
{
	CallContext *call = (CallContext *) fcinfo->context;
	McEngine *engine;
	MemoryContext context;
	MemoryContext old;

	if (call == NULL || !IsA(call, CallContext) || call->atomic)
		ereport(
			ERROR,
			(errcode(ERRCODE_INVALID_TRANSACTION_TERMINATION),
			 errmsg("mc_run cannot be executed within a transaction"),
			 errhint(
				 "It commits as it goes: call it on its own, outside of a transaction block or function.")));
	PreventCommandDuringRecovery("CALL mc_run()");
	mc_gate_check(fcinfo);

	context = AllocSetContextCreate(PortalContext, "mailchimp_sync run", ALLOCSET_SMALL_SIZES);
	old = MemoryContextSwitchTo(context);
	engine = mc_engine_create(&run_transaction, true);
	PG_TRY();
	{
		if (take_over(engine))
			mc_engine_run(engine);
	}
	PG_FINALLY();
	{
		mc_engine_unlock();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	PG_RETURN_VOID();
}
