/*-------------------------------------------------------------------------
 *
 * worker.c
 *	  The background worker of a database; starting and stopping it from SQL.
 *
 * A worker is started by the launcher (databases of mailchimp_sync.databases,
 * see launcher.c) or by mc_start_worker(), and does what mc_run does, for ever.
 * Races that are closed:
 *	- two workers, or a worker and mc_run: the lock in run.c; who comes second
 *	  waits until it is free, for another worker not longer than that one may
 *	  need to end.
 *	- start or stop in a (sub)transaction that rolls back: both act after commit.
 *	- stop against a start that is under way, or a restart by the postmaster or
 *	  the launcher: the stop is a row. A worker looks for it after it has made
 *	  itself known as the engine, so either it sees the row or the stop sees it;
 *	  finding the row it ends with exit code 0, "not again".
 *	- DROP EXTENSION, and CREATE EXTENSION after it: each transaction of the
 *	  engine looks whether the extension is still the one it started with;
 *	  CREATE EXTENSION wakes it to look, and asks the launcher.
 *	- a database that is being dropped or cloned: DROP DATABASE takes FORCE, or
 *	  mc_stop_worker() first, like for any session. Started again in a database
 *	  that is gone, a worker ends for good.
 *
 * It forces its own session settings, so that ALTER DATABASE or ALTER ROLE
 * cannot change what it does. It never runs on a standby: a promotion starts it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "access/xact.h"
#include "commands/dbcommands.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/wait_event.h"

#include "engine.h"
#include "mailchimp_sync.h"
#include "slot.h"
#include "worker.h"

/* how often to look whether another engine has let go of the lock */
#define LOCK_MS 1000
/* how many of these looks a worker waits for another worker */
#define SPARE_LOOKS 5
/* after an error, in s */
#define RESTART_S 5

PG_FUNCTION_INFO_V1(mc_start_worker);
PG_FUNCTION_INFO_V1(mc_stop_worker);
PG_FUNCTION_INFO_V1(mc_announce);
PG_FUNCTION_INFO_V1(mc_engine);

/* ---- the process ---- */

static void
worker_begin(void)
{
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "could not connect to SPI");
	/* outside of a portal SPI wants one below those that its statements take */
	PushActiveSnapshot(GetTransactionSnapshot());
	pgstat_report_activity(STATE_RUNNING, "working");
}

static void
worker_commit(void)
{
	SPI_finish();
	PopActiveSnapshot();
	CommitTransactionCommand();
	pgstat_report_stat(false);
	pgstat_report_activity(STATE_IDLE, NULL);
}

static const McTransaction worker_transaction = {worker_begin, worker_commit};

static void
force_settings(void)
{
	static const char *const settings[][2] = {
		{"role", "none"},
		{"session_replication_role", "origin"},
		{"search_path", ""},
		{"statement_timeout", "0"},
		{"lock_timeout", "0"},
		{"idle_in_transaction_session_timeout", "0"},
#if PG_VERSION_NUM >= 170000
		{"transaction_timeout", "0"},
#endif
		{"default_transaction_isolation", "read committed"},
		{"default_transaction_read_only", "off"},
		{"default_transaction_deferrable", "off"},
		{"jit", "off"},
	};

	for (size_t i = 0; i < lengthof(settings); i++)
		SetConfigOption(settings[i][0], settings[i][1], PGC_SUSET, PGC_S_OVERRIDE);
}

/* Is there something for a worker to do here: the extension, and nobody said stop? */
static bool
is_wanted(void)
{
	bool wanted;

	worker_begin();
	wanted =
		OidIsValid(mc_extension_oid(true)) && MC_SQL0("SELECT FROM mailchimp_sync.worker") == 0;
	worker_commit();
	return wanted;
}

/* Another worker has been at it for longer than one that is ending would be. */
static bool
is_spare(int looks)
{
	bool is_worker = false;

	return looks >= SPARE_LOOKS && mc_engine_pid(MyDatabaseId, &is_worker) != 0 && is_worker;
}

/*
 * A worker that cannot connect ends with exit code 1 and would be started again,
 * for ever if its database is gone. The error itself is all that tells why.
 */
static emit_log_hook_type prev_emit_log_hook = NULL;
static bool database_is_gone = false;

static void
look_at_error(ErrorData *error)
{
	if (error->elevel == FATAL && error->sqlerrcode == ERRCODE_UNDEFINED_DATABASE)
		database_is_gone = true;
	if (prev_emit_log_hook != NULL)
		prev_emit_log_hook(error);
}

static void
end_for_good(int code, Datum arg)
{
	if (database_is_gone)
		proc_exit(0);
}

static void
connect_to(Oid database)
{
	prev_emit_log_hook = emit_log_hook;
	emit_log_hook = look_at_error;
	on_proc_exit(end_for_good, (Datum) 0);
	if (OidIsValid(database))
		BackgroundWorkerInitializeConnectionByOid(database, InvalidOid, 0);
	else
		BackgroundWorkerInitializeConnection(MyBgworkerEntry->bgw_extra, NULL, 0);
	emit_log_hook = prev_emit_log_hook;
}

void
mc_worker_main(Datum arg)
{
	McEngine *engine;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	connect_to(DatumGetObjectId(arg));
	force_settings();
	MemoryContextSwitchTo(TopMemoryContext);
	if (!is_wanted())
		proc_exit(0);

	engine = mc_engine_create(&worker_transaction, false);
	for (int looks = 1; !mc_engine_lock(mc_engine_extension(engine), true); looks++)
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, LOCK_MS,
						 PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		if (!is_wanted() || is_spare(looks))
			proc_exit(0);
	}
	if (!is_wanted())
		proc_exit(0);
	mc_engine_run(engine);
}

void
mc_worker_describe(BackgroundWorker *worker, Oid database, const char *name)
{
	memset(worker, 0, sizeof(*worker));
	worker->bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker->bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker->bgw_restart_time = BGW_NEVER_RESTART;
	worker->bgw_main_arg = ObjectIdGetDatum(database);
	strlcpy(worker->bgw_library_name, MC_EXTENSION, sizeof(worker->bgw_library_name));
	strlcpy(worker->bgw_function_name, "mc_worker_main", sizeof(worker->bgw_function_name));
	strlcpy(worker->bgw_type, "mailchimp_sync worker", sizeof(worker->bgw_type));
	strlcpy(worker->bgw_extra, name, sizeof(worker->bgw_extra));
	snprintf(worker->bgw_name, sizeof(worker->bgw_name), "mailchimp_sync worker of %s", name);
}

/* ---- from SQL ---- */

typedef enum WishKind
{
	WISH_ANNOUNCE,
	WISH_START,
	WISH_STOP
} WishKind;

typedef struct Wish
{
	WishKind kind;
	SubTransactionId subid;
	struct Wish *before; /* counts again if this one is rolled back */
} Wish;

/* the last one of this transaction, in its memory */
static Wish *wish = NULL;
static char wish_database[NAMEDATALEN];

/* An engine of the extension before this one finds out, and ends; the launcher starts the next. */
static void
announce_now(void)
{
	mc_engine_wake(MyDatabaseId);
	(void) mc_launcher_ask(wish_database);
}

/* After commit nothing may raise: what fails is said, and mc_start_worker can be called again. */
static void
start_now(void)
{
	BackgroundWorker worker;

	if (mc_launcher_ask(wish_database))
		return;
	mc_worker_describe(&worker, MyDatabaseId, wish_database);
	worker.bgw_restart_time = RESTART_S;
	if (!RegisterDynamicBackgroundWorker(&worker, NULL))
		ereport(WARNING, (errcode(ERRCODE_INSUFFICIENT_RESOURCES),
						  errmsg("could not start a background worker"),
						  errhint("You may need to increase max_worker_processes.")));
}

static void
stop_now(void)
{
	bool is_worker = false;
	int pid = mc_engine_pid(MyDatabaseId, &is_worker);

	if (pid != 0 && is_worker)
		kill(pid, SIGTERM);
}

static void
at_transaction_end(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_COMMIT && wish != NULL)
	{
		switch (wish->kind)
		{
			case WISH_ANNOUNCE:
				announce_now();
				break;
			case WISH_START:
				start_now();
				break;
			case WISH_STOP:
				stop_now();
				break;
		}
	}
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
		wish = NULL;
}

static void
at_subtransaction_end(SubXactEvent event, SubTransactionId mine, SubTransactionId parent, void *arg)
{
	if (event == SUBXACT_EVENT_COMMIT_SUB)
	{
		for (Wish *its = wish; its != NULL && its->subid == mine; its = its->before)
			its->subid = parent;
	}
	else if (event == SUBXACT_EVENT_ABORT_SUB)
	{
		while (wish != NULL && wish->subid == mine)
			wish = wish->before;
	}
}

static void
wish_for(WishKind kind)
{
	static bool registered = false;
	bool is_worker;
	Wish *fresh = MemoryContextAlloc(TopTransactionContext, sizeof(Wish));

	if (!registered)
	{
		RegisterXactCallback(at_transaction_end, NULL);
		RegisterSubXactCallback(at_subtransaction_end, NULL);
		registered = true;
	}
	/* attaches to shared memory here, where that may raise */
	(void) mc_engine_pid(MyDatabaseId, &is_worker);
	strlcpy(wish_database, get_database_name(MyDatabaseId), sizeof(wish_database));
	fresh->kind = kind;
	fresh->subid = GetCurrentSubTransactionId();
	fresh->before = wish;
	wish = fresh;
}

Datum
mc_start_worker(PG_FUNCTION_ARGS)
{
	wish_for(WISH_START);
	PG_RETURN_VOID();
}

Datum
mc_stop_worker(PG_FUNCTION_ARGS)
{
	wish_for(WISH_STOP);
	PG_RETURN_VOID();
}

/* announce(): the extension was made */
Datum
mc_announce(PG_FUNCTION_ARGS)
{
	wish_for(WISH_ANNOUNCE);
	PG_RETURN_VOID();
}

/* engine(): which process is the engine of this database, and what keeps a worker running */
Datum
mc_engine(PG_FUNCTION_ARGS)
{
	TupleDesc tupdesc;
	Datum values[4];
	bool nulls[4] = {false, false, false, false};
	bool is_worker = false;
	int pid = mc_engine_pid(MyDatabaseId, &is_worker);

	if (get_call_result_type(fcinfo, NULL, &tupdesc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	values[0] = Int32GetDatum(pid);
	values[1] = BoolGetDatum(is_worker);
	values[2] = BoolGetDatum(mc_preloaded);
	values[3] = BoolGetDatum(mc_launcher_knows(get_database_name(MyDatabaseId)));
	nulls[0] = nulls[1] = pid == 0;
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(tupdesc), values, nulls)));
}
